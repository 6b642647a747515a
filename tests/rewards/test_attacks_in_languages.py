"""What whole programs try in eight languages and in every tier, where compilers, a shell and the system's files are to be
seen: to get out while they run, or already while they are compiled. Each prints THROUGH where it got through; none may be
right, and nothing may be left of it, running or on the disk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from available_tiers import TIERS, left_behind, sandbox_of, skip_what_cannot_be_judged

from sapience.problems.problem import Language, Problem, StreamCase
from sapience.rewards.code import CodeJudge
from sapience.rewards.control_group import find_control_groups
from sapience.rewards.limits import Limits

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=30.0, memory_mb=256, output_bytes=10_000, processes=16)
SECRET = "7f3a-open-sesame-of-languages"
C_HEAD = """#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#define THROUGH do { puts("THROUGH"); fflush(stdout); _exit(0); } while (0)
"""


def c(body: str) -> tuple[Language, str]:
    return "c", C_HEAD + "int main() { " + body + " return 0; }"


ATTACKS: dict[str, tuple[Language, str]] = {
    "c: tcp": c("""struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(@port@)}; inet_aton("127.0.0.1", &a.sin_addr);
        if (!connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, sizeof a)) THROUGH;"""),
    "c: abstract socket": c("""struct sockaddr_un a = {.sun_family = AF_UNIX}; strcpy(a.sun_path + 1, "@secret@");
        if (!connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof(sa_family_t) + 1 + strlen("@secret@"))) THROUGH;"""),
    "c: raw socket": c("if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0) THROUGH;"),
    "c: read a secret": c('if (open("@file@", O_RDONLY) >= 0) THROUGH;'),
    "c: passwords": c('if (open("/etc/shadow", O_RDONLY) >= 0 || open("/etc/passwd", O_RDONLY) >= 0) THROUGH;'),
    "c: kill the harness": c("if (@victim@ > 99 && !kill(@victim@, 9)) THROUGH;"),
    "c: kill every process": c('kill(-1, 9); puts("still here");'),
    "c: trace": c("if (!ptrace(PTRACE_ATTACH, getppid(), 0, 0)) THROUGH;"),
    "c: trace oneself": c("if (!ptrace(PTRACE_TRACEME, 0, 0, 0)) THROUGH;"),
    "c: write a process's memory": c("""char path[64]; sprintf(path, "/proc/%d/mem", @victim@); if (@victim@ > 99 && open(path, O_RDWR) >= 0) THROUGH;"""),
    "c: user namespace": c("if (!unshare(CLONE_NEWUSER)) THROUGH;"),
    "c: mount": c('if (!mount("none", "/tmp", "tmpfs", 0, "")) THROUGH;'),
    "c: remount the system": c('if (!mount("none", "/usr", 0, MS_REMOUNT | MS_BIND, "")) THROUGH;'),
    "c: io_uring": c("char p[256] = {0}; if (syscall(425, 4, p) >= 0) THROUGH;"),
    "c: bpf": c("char p[128] = {0}; if (syscall(SYS_bpf, 0, p, sizeof p) >= 0) THROUGH;"),
    "c: keys": c('if (syscall(SYS_add_key, "user", "x", "y", 1, -4) >= 0) THROUGH;'),
    "c: set user": c("if (!setuid(0) || !setgid(0)) THROUGH;"),
    "c: a device": c('if (!mknod("/tmp/d", S_IFBLK | 0600, 0x801) && open("/tmp/d", O_RDONLY) >= 0) THROUGH;'),
    "c: higher limits": c("struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY}; if (!setrlimit(RLIMIT_NPROC, &r)) THROUGH;"),
    "c: write the system": c('if (open("/usr/bin/planted", O_WRONLY | O_CREAT, 0777) >= 0 || open("/usr/bin/env", O_WRONLY) >= 0) THROUGH;'),
    "c: fork bomb": c("for (int i = 0; i < 400; i++) { int p = fork(); if (p < 0) return 1; if (!p) { pause(); _exit(0); } } THROUGH;"),
    "c: threads and processes of a long name": c("for (int i = 0; i < 400; i++) { if (vfork() == 0) _exit(0); wait(0); } puts(\"no\");"),
    "c: disk": c("""char b[1 << 16] = {1}; long n = 0; for (int f = 0; f < 64; f++) { char name[32]; sprintf(name, "/tmp/f%d", f);
        int d = open(name, O_WRONLY | O_CREAT, 0600); for (int i = 0; i < 64; i++) { long w = write(d, b, sizeof b); if (w < (long)sizeof b) return 1; n += w; } }
        if (n > (200L << 20)) THROUGH;"""),
    "c: shared memory": c('if (shm_open("/x", O_CREAT | O_RDWR, 0600) >= 0 || open("/dev/shm/x", O_CREAT | O_RDWR, 0600) >= 0) THROUGH;'),
    "c: uncounted memory file": c('if (memfd_create("x", 0) >= 0) THROUGH;'),
    "c: link out of the folder": c('symlink("@file@", "/tmp/l"); if (open("/tmp/l", O_RDONLY) >= 0) THROUGH;'),
    "c: proc root of the first process": c('if (open("/proc/1/root/etc/shadow", O_RDONLY) >= 0) THROUGH;'),
    "c: kernel settings": c('if (open("/proc/sys/kernel/core_pattern", O_WRONLY) >= 0 || open("/proc/sysrq-trigger", O_WRONLY) >= 0) THROUGH;'),
    "c: descriptors": c("""for (int d = 3; d < 1024; d++) { char b[64] = {0}; if (pread(d, b, 60, 0) > 0 && strstr(b, "@secret@")) THROUGH; }"""),
    "c: one large file": c("""char b[1 << 16] = {1}; long n = 0; int d = open("large", O_WRONLY | O_CREAT, 0600);
        for (int i = 0; i < 4096; i++) { long w = write(d, b, sizeof b); if (w < (long)sizeof b) return 1; n += w; } if (n > (100L << 20)) THROUGH;"""),
    "c: many files": c("""char name[32]; int n = 0; for (int f = 0; f < 200000; f++) { sprintf(name, "f%d", f);
        int d = open(name, O_WRONLY | O_CREAT, 0600); if (d < 0) return 1; n += write(d, name, 1) == 1; close(d); } if (n > 100000) THROUGH;"""),
    "c: deleted files": c("""char b[1 << 16] = {1}; long n = 0; for (int f = 0; f < 200; f++) { int d = open("deleted", O_WRONLY | O_CREAT, 0600); unlink("deleted");
        for (int i = 0; i < 64; i++) { long w = write(d, b, sizeof b); if (w < (long)sizeof b) return 1; n += w; } } if (n > (200L << 20)) THROUGH;"""),
    "c: nameless files": c("""char b[1 << 16] = {1}; long n = 0; for (int f = 0; f < 200; f++) { int d = open(".", O_WRONLY | O_TMPFILE, 0600);
        for (int i = 0; i < 64; i++) { long w = write(d, b, sizeof b); if (w < (long)sizeof b) return 1; n += w; } } if (n > (200L << 20)) THROUGH;"""),
    "c: folders without end": c("""for (int i = 0; i < 10000000; i++) if (mkdir("d", 0700) || chdir("d")) return 1; THROUGH;"""),
    "c: link out of its folder": c("""if (!symlink("@file@", "l") && open("l", O_RDONLY) >= 0) THROUGH;
        if (!link("@file@", "h") && open("h", O_RDONLY) >= 0) THROUGH;"""),
    "c: folders of others": c("""DIR *t = opendir("/tmp"); struct dirent *e; while (t && (e = readdir(t))) if (strstr(e->d_name, "@neighbour@")) THROUGH;
        if (open("@scratch@/main.c", O_RDONLY) >= 0 || open("@scratch@/planted", O_WRONLY | O_CREAT, 0600) >= 0) THROUGH;"""),
    "c: open its files to others": c('if (!chmod("/usr", 0777) || !chmod("@file@", 0777) || !chown("@file@", getuid(), getgid())) THROUGH;'),
    "c: signals to the parent": c("""if (getppid() > 99 && !kill(getppid(), 0)) THROUGH; if (!kill(@harness@, 0) && @harness@ > 99) THROUGH;
        for (int p = 100; p < 40000; p++) if (p != getpid() && p != getppid() && !kill(p, 0)) THROUGH;"""),
    "c: signals by a descriptor": c("int p = syscall(434, @victim@, 0); if (@victim@ > 99 && p >= 0 && !syscall(424, p, 9, 0, 0)) THROUGH;"),
    "c: signals to a thread": c("if (@victim@ > 99 && (!syscall(SYS_tgkill, @victim@, @victim@, 9) || !syscall(SYS_tkill, @victim@, 9))) THROUGH;"),
    "c: limits of others": c("struct rlimit r = {1, 1}; if (@victim@ > 99 && !prlimit(@victim@, RLIMIT_CPU, &r, 0)) THROUGH;"),
    "c: priority of others": c("if (@victim@ > 99 && !setpriority(PRIO_PROCESS, @victim@, 19)) THROUGH;"),
    "c: daemons in sessions": c("for (int i = 0; i < 3; i++) if (!fork()) { setsid(); if (fork()) _exit(0); for (;;) pause(); } puts(\"no\");"),
    "c: daemons in groups": c("for (int i = 0; i < 3; i++) if (!fork()) { setpgid(0, 0); if (fork()) _exit(0); for (;;) pause(); } puts(\"no\");"),
    "c: daemons that compute": c("for (int i = 0; i < 3; i++) if (!fork()) { setsid(); if (fork()) _exit(0); for (volatile long x = 0;; x++); } puts(\"no\");"),
    "c: a fork bomb that computes": c("for (;;) fork();"),
    "c: semaphores and queues of the system": c("""if (syscall(SYS_shmget, 0x7f3a, 4096, 01666) >= 0 || syscall(SYS_semget, 0x7f3a, 1, 01666) >= 0 || syscall(SYS_msgget, 0x7f3a, 01666) >= 0) THROUGH;"""),
    "c: pipes and sockets with names": c("""if (!mkfifo("/var/tmp/@neighbour@", 0666)) THROUGH; struct sockaddr_un a = {.sun_family = AF_UNIX};
        strcpy(a.sun_path, "/var/tmp/@neighbour@"); if (!bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a)) THROUGH;"""),
    "c: command lines of others": c("""for (int p = 1; p < 40000; p++) { char path[64], b[4096]; sprintf(path, "/proc/%d/cmdline", p); int d = open(path, O_RDONLY);
        if (d < 0) continue; long n = read(d, b, sizeof b); close(d); if (n > 0 && memmem(b, n, "@neighbour@", strlen("@neighbour@"))) THROUGH; }"""),
    "c: move its folder": c("""if (!rename(".", "/var/tmp/@neighbour@") || !rename("program", "/var/tmp/@neighbour@")) THROUGH;"""),
    "cpp: descriptors of the runner": ("cpp", """#include <bits/stdc++.h>
#include <fcntl.h>
#include <unistd.h>
int main() { for (int p = 1; p < 50; p++) for (int d = 0; d < 30; d++) {
  std::ifstream f("/proc/" + std::to_string(p) + "/fd/" + std::to_string(d)); std::string s((std::istreambuf_iterator<char>(f)), {});
  if (s.find("THROUGH") != std::string::npos || s.find("@secret@") != std::string::npos) { puts("THROUGH"); return 0; } } }"""),
    "cpp: include a secret": ("cpp", '#include "@file@"\nint main() { puts("THROUGH"); }'),
    "cpp: include the end of the world": ("cpp", '#include "/dev/urandom"\nint main() { }'),
    "cpp: a compiler that never ends": ("cpp", """template<int A, int B> struct T { static const int v = T<A - 1, B>::v + T<A, B - 1>::v; };
template<int A> struct T<A, 0> { static const int v = 1; }; template<int B> struct T<0, B> { static const int v = 1; };
constexpr long f(long n) { return n < 2 ? n : f(n - 1) + f(n - 2); } static_assert(f(60) > 0); int main() { return T<900, 900>::v; }"""),
    "cpp: a program of many gigabytes": ("cpp", "char x[40000000000] = {1}; int main() { return x[5]; }"),
    "cpp: secret by the assembler": ("cpp", 'asm(".incbin \\"@file@\\""); int main() { puts("THROUGH"); }'),
    "rust: include a secret": ("rust", 'fn main() { let x = include_str!("@file@"); println!("THROUGH{}", x.len() - x.len()); }'),
    "rust: secret of the environment": ("rust", 'fn main() { if env!("SAPIENCE_SECRET").len() > 0 { println!("THROUGH"); } }'),
    "rust: network": ("rust", """fn main() { if std::net::TcpStream::connect("127.0.0.1:@port@").is_ok() { println!("THROUGH"); } }"""),
    "rust: files": ("rust", """fn main() { if std::fs::read_to_string("@file@").is_ok() || std::fs::write("/usr/planted", "x").is_ok() { println!("THROUGH"); } }"""),
    "go: embed a secret": ("go", 'package main\nimport _ "embed"\n//go:embed ../../../../../..@file@\nvar x string\nfunc main() { println(x) }'),
    "go: network": ("go", 'package main\nimport ("fmt"; "net")\nfunc main() { if _, e := net.Dial("tcp", "127.0.0.1:@port@"); e == nil { fmt.Println("THROUGH") } }'),
    "go: files": ("go", 'package main\nimport ("fmt"; "os")\nfunc main() { if _, e := os.ReadFile("@file@"); e == nil { fmt.Println("THROUGH") } }'),
    "go: processes without end": ("go", """package main
import ("fmt"; "os/exec")
func main() { n := 0; for i := 0; i < 500; i++ { if exec.Command("sleep", "60").Start() == nil { n++ } }; if n == 500 { fmt.Println("THROUGH") } }"""),
    "java: network": ("java", """public class A { public static void main(String[] a) throws Exception {
        new java.net.Socket("127.0.0.1", @port@); System.out.println("THROUGH"); } }"""),
    "java: files": ("java", """import java.nio.file.*; public class A { public static void main(String[] a) throws Exception {
        Files.readAllBytes(Paths.get("@file@")); System.out.println("THROUGH"); } }"""),
    "java: environment": ("java", """public class A { public static void main(String[] a) {
        if (System.getenv().values().stream().anyMatch(x -> x.contains("@secret@"))) System.out.println("THROUGH"); } }"""),
    "java: kill": ("java", """public class A { public static void main(String[] a) {
        if (ProcessHandle.allProcesses().filter(p -> p.pid() == @victim@ && p.pid() > 99).anyMatch(p -> p.destroyForcibly())) System.out.println("THROUGH"); } }"""),
    "java: disk": ("java", """import java.nio.file.*; public class A { public static void main(String[] a) throws Exception {
        byte[] b = new byte[1 << 20]; for (int i = 0; i < 200; i++) Files.write(Paths.get("f" + i), b); System.out.println("THROUGH"); } }"""),
    "java: processes": ("java", """public class A { public static void main(String[] a) throws Exception {
        for (int i = 0; i < 400; i++) new ProcessBuilder("/usr/bin/sleep", "60").start(); System.out.println("THROUGH"); } }"""),
    "javascript: disk": ("javascript", """const f = require("fs"); for (let i = 0; i < 200; i++) f.writeFileSync("f" + i, Buffer.alloc(1 << 20)); console.log("THROUGH");"""),
    "javascript: processes": ("javascript", """const { spawn } = require("child_process"); let n = 0, bad = 0;
        for (let i = 0; i < 400; i++) { try { const p = spawn("/usr/bin/sleep", ["60"], { detached: true }); p.on("error", () => bad++); n++; } catch (e) { bad++; } }
        setTimeout(() => { if (!bad) console.log("THROUGH"); process.exit(0); }, 500);"""),
    "go: disk": ("go", """package main
import ("fmt"; "os")
func main() { b := make([]byte, 1 << 20); for i := 0; i < 200; i++ { if os.WriteFile(fmt.Sprint("f", i), b, 0600) != nil { return } }; fmt.Println("THROUGH") }"""),
    "go: memory that others could share": ("go", """package main
import ("fmt"; "syscall")
func main() { for i := 0; i < 64; i++ { m, e := syscall.Mmap(-1, 0, 1 << 28, 3, syscall.MAP_ANON | syscall.MAP_SHARED); if e != nil { return }
  for j := 0; j < 1 << 28; j += 4096 { m[j] = 1 } }; fmt.Println("THROUGH") }"""),
    "rust: processes": ("rust", """fn main() { let mut n = 0; for _ in 0..400 { if std::process::Command::new("/usr/bin/sleep").arg("60").spawn().is_ok() { n += 1; } }
  if n == 400 { println!("THROUGH"); } }"""),
    "javascript: network": ("javascript", """require("net").connect(@port@, "127.0.0.1").on("connect", () => { console.log("THROUGH"); process.exit(0); }).on("error", () => process.exit(1));"""),
    "javascript: files": ("javascript", 'require("fs").readFileSync("@file@"); console.log("THROUGH");'),
    "javascript: a shell": ("javascript", """const r = require("child_process").execSync("cat @file@ /etc/shadow 2>/dev/null || true").toString(); if (r.length) console.log("THROUGH");"""),
    "javascript: installed packages": ("javascript", 'require("@project@"); console.log("THROUGH");'),
    "bash: files": ("bash", 'cat "@file@" >/dev/null 2>&1 && echo THROUGH'),
    "bash: network": ("bash", "exec 3<>/dev/tcp/127.0.0.1/@port@ && echo THROUGH"),
    "bash: the project": ("bash", 'ls "@project@" >/dev/null 2>&1 && echo THROUGH'),
    "bash: fork bomb": ("bash", "f() { f | f & }; f; sleep 1; echo no"),
    "bash: daemons": ("bash", "for i in 1 2 3; do (setsid sleep 60 &) ; done; echo no"),
    "bash: ignore every signal": ("bash", "trap '' HUP INT TERM QUIT; while :; do :; done"),
    "bash: flood": ("bash", "yes THROUGH"),
    "bash: other processes": ("bash", 'for p in /proc/[0-9]*; do grep -q "@secret@" $p/environ $p/cmdline 2>/dev/null && echo THROUGH; done'),
    "bash: disk": ("bash", 'head -c 300000000 /dev/zero >large && echo THROUGH'),
    "bash: a large text": ("bash", 'x=$(printf "%0900000d" 1); for i in 1 2 3 4 5; do cat <<<"$x$x$x" >>here || exit; done; ls -l /proc/self/fd/ 2>/dev/null; echo no'),
    "bash: signals": ("bash", "kill -0 @harness@ 2>/dev/null && [ @harness@ -gt 99 ] && echo THROUGH; kill -9 -1; echo no"),
    "bash: sudo and su": ("bash", "(sudo -n true || su -c true) 2>/dev/null && echo THROUGH"),
    "python: the runner's memory": ("python", """
import os, re
for line in open(f"/proc/{os.getppid()}/maps"):
    pass
print("THROUGH")"""),
    "python: sessions and daemons": ("python", """
import os, time
for leave in (os.setsid, os.setpgrp, int):
    if os.fork() == 0:
        try: leave()
        except OSError: pass
        if os.fork() == 0:
            for number in range(64):
                try: os.close(number)
                except OSError: pass
            time.sleep(60)
        os._exit(0)
print('no')"""),
    "python: answers in the runner's place": ("python", """
import os
for number in range(3, 64):
    try: os.write(number, b'{"case":0,"stdout":"VEhST1VHSAo="}\\n')
    except OSError: pass
for number in range(64):
    try: open(f'/proc/{os.getppid()}/fd/{number}', 'wb').write(b'{"case":0,"stdout":"VEhST1VHSAo="}\\n')
    except OSError: pass
raise SystemExit(1)"""),
    "python: the folder of the library": ("python", """
import os
held = os.open('/proc/self/fd/4', os.O_PATH) if os.path.exists('/proc/self/fd/4') else os.open('/', os.O_PATH)
os.open('../../../../../../../../..' + '@file@', os.O_RDONLY, dir_fd=held)
print('THROUGH')"""),
    "python: a module of this project": ("python", "import sapience\nprint('THROUGH')"),
}  # fmt: skip
"""Marks between at-signs stand for the traps outside."""


@pytest.fixture(scope="module")
def trap() -> Iterator[dict[str, str]]:
    """A secret in a file that anyone may read, in a descriptor, in the environment and in a process; a port, a socket."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as port, socket.socket(socket.AF_UNIX) as abstract:
        Path(folder).chmod(0o755)
        neighbour = Path(folder) / "sapience-neighbour"
        neighbour.mkdir()
        (neighbour / "main.c").touch()
        file = Path(folder) / "secret.h"
        file.write_text(f"/* {SECRET} */\n")
        file.chmod(0o666)
        port.bind(("127.0.0.1", 0))
        port.listen()
        abstract.bind("\0" + SECRET)
        abstract.listen()
        descriptor = os.open(file, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        os.environ["SAPIENCE_SECRET"] = SECRET
        victim = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()", neighbour.name], stdin=subprocess.PIPE
        )
        yield {
            "file": str(file), "port": str(port.getsockname()[1]), "secret": SECRET, "victim": str(victim.pid),
            "project": str(Path(__file__).resolve().parents[2] / "sapience"),
            "harness": str(os.getpid()), "scratch": str(neighbour), "neighbour": neighbour.name,
        }  # fmt: skip
        assert victim.poll() is None, "a program killed a process outside"
        assert file.read_text() == f"/* {SECRET} */\n"
        assert sorted(path.name for path in neighbour.iterdir()) == ["main.c"]
        assert not Path("/var/tmp", neighbour.name).exists()
        victim.kill()
        victim.communicate()
        os.close(descriptor)
        del os.environ["SAPIENCE_SECRET"]


@pytest.fixture(scope="module", params=TIERS)
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    with CodeJudge(sandbox_of(request.param), 2, LIMITS) as made:
        yield made


def problem(judge: CodeJudge, language: Language, expected: str) -> Problem:
    skip_what_cannot_be_judged(judge, language)
    return Problem("x", "code", "x", "", "", tests=(StreamCase("", expected),), language=language)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_get_through(judge: CodeJudge, trap: dict[str, str], name: str) -> None:
    language, source = ATTACKS[name]
    for mark, value in trap.items():
        source = source.replace(f"@{mark}@", value)
    asked = problem(judge, language, "THROUGH")
    begun = time.monotonic()
    verdict = judge.judge(asked, source)
    assert verdict.kind not in ("ok", "infra_error"), verdict
    assert time.monotonic() - begun < 150
    assert not left_behind()


def test_the_attacks_would_be_seen_to_succeed(judge: CodeJudge) -> None:
    """A program that prints the word is right, so the test above is not empty."""
    assert judge.judge(problem(judge, "c", "THROUGH"), c("THROUGH;")[1]).right


def test_memory_of_many_processes_is_bounded_together(judge: CodeJudge) -> None:
    if judge.sandbox.weaker or find_control_groups() is None:
        pytest.skip("no control group, here or in this tier: a submission may hold the product of its limits")
    hold = "volatile char *p = malloc(200 << 20); for (long i = 0; i < 200 << 20; i += 4096) p[i] = 1;"
    body = f"for (int i = 0; i < 8; i++) if (!fork()) {{ {hold} sleep(2); _exit(0); }} int n = 0, s; while (wait(&s) > 0) n += !s;"
    verdict = judge.judge(problem(judge, "c", "8"), c(body + ' printf("%d", n);')[1])
    assert verdict.kind in ("memory", "wrong", "runtime_error"), verdict


def test_there_are_enough_of_them() -> None:
    assert len(ATTACKS) >= 95 and len({language for language, _ in ATTACKS.values()}) == 8
