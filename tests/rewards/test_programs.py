"""Whole programs in eight languages and in every tier: each kind of verdict, limits of each test, nothing that reaches the
next one."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from available_tiers import TIERS, left_behind, sandbox_of, skip_what_cannot_be_judged

from sapience.problems.problem import Language, Problem, StreamCase, TestCase
from sapience.recipe import UserError
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits
from sapience.rewards.outcome import Answer
from sapience.rewards.programs import Programs, same_output
from sapience.rewards.toolchains import TOOLCHAINS, installed

SUM: dict[Language, str] = {
    "python": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "c": '#include <stdio.h>\nint main() { long s = 0, x; while (scanf("%ld", &x) == 1) s += x; printf("%ld\\n", s); }',
    "cpp": "#include <iostream>\nint main() { long s = 0, x; while (std::cin >> x) s += x; std::cout << s << std::endl; }",
    "java": """import java.util.*;
public class Total {
  public static void main(String[] args) {
    Scanner in = new Scanner(System.in); long sum = 0;
    while (in.hasNextLong()) sum += in.nextLong();
    System.out.println(sum);
  }
}""",
    "javascript": """const words = require("fs").readFileSync(0, "utf8").split(/\\s+/).filter(Boolean);
console.log(words.reduce((sum, word) => sum + Number(word), 0));""",
    "go": """package main
import "fmt"
func main() {
  sum, x := 0, 0
  for { if _, err := fmt.Scan(&x); err != nil { break }; sum += x }
  fmt.Println(sum)
}""",
    "rust": """use std::io::Read;
fn main() {
  let mut text = String::new();
  std::io::stdin().read_to_string(&mut text).unwrap();
  println!("{}", text.split_whitespace().map(|x| x.parse::<i64>().unwrap()).sum::<i64>());
}""",
    "bash": "sum=0\nwhile read -ra words; do for word in ${words[@]}; do sum=$((sum + word)); done; done\necho $sum",
}
BROKEN: dict[Language, str] = {
    "python": "print(",
    "c": "int main() { return x; }",
    "cpp": "int main() { std::string s; }",
    "java": 'public class A { public static void main(String[] a) { int x = ""; } }',
    "javascript": "console.log((;",
    "go": "package main\nfunc main() { var unused int }",
    "rust": 'fn main() { let x: i32 = ""; }',
    "bash": "if then fi",
}
FAILING: dict[Language, str] = {
    "python": "raise SystemExit(3)",
    "c": "#include <stdlib.h>\nint main() { abort(); }",
    "cpp": "int main() { throw 1; }",
    "java": 'public class A { public static void main(String[] a) { throw new RuntimeException("no"); } }',
    "javascript": "throw new Error('no')",
    "go": "package main\nfunc main() { panic(1) }",
    "rust": "fn main() { panic!() }",
    "bash": "exit 3",
}
ENDLESS: dict[Language, str] = {
    "python": "while True: pass",
    "c": "int main() { volatile long x = 0; for (;;) x++; }",
    "cpp": "int main() { volatile long x = 0; for (;;) x = x + 1; }",
    "java": "public class A { public static void main(String[] a) { long x = 0; while (true) x++; } }",
    "javascript": "for (;;) {}",
    "go": "package main\nfunc main() { for { } }",
    "rust": "fn main() { let mut x = 0u64; loop { x = std::hint::black_box(x + 1); } }",
    "bash": "while :; do :; done",
}
GREEDY: dict[Language, str] = {
    "python": "x = bytearray(2_000_000_000); print(6)",
    "c": """#include <stdlib.h>
int main() { for (int i = 0; i < 100; i++) { volatile char *p = malloc(100000000); if (!p) abort();
  for (int n = 0; n < 100000000; n += 4096) p[n] = 1; } }""",
    "cpp": "#include <vector>\nint main() { std::vector<char> x(2000000000u, 1); return x[5]; }",
    "go": "package main\nfunc main() { x := make([]byte, 2000000000); for i := range x { x[i] = 1 }; println(x[5]) }",
    "java": "public class A { public static void main(String[] a) { byte[][] x = new byte[100][]; for (int i = 0; i < 100; i++) x[i] = new byte[100000000]; } }",  # noqa: E501
    "javascript": "const x = []; for (;;) x.push(new Array(100000).fill(1.5));",
    "rust": 'fn main() { let x = vec![1u8; 2_000_000_000]; println!("{}", x[7]); }',
}
CHATTY: dict[Language, str] = {
    "python": "while True: print('x' * 1000)",
    "c": '#include <stdio.h>\nint main() { for (;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"); }',
    "bash": "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
}
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=20.0, memory_mb=256, output_bytes=20_000)
CASES = (StreamCase("1 2 3\n", "6\n"), StreamCase("4 5\n-6\n", "3"), StreamCase("", "0"))


@pytest.fixture(scope="module", params=TIERS)
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    with CodeJudge(sandbox_of(request.param), 2, LIMITS) as made:
        yield made


def program(judge: CodeJudge, language: Language, *cases: StreamCase) -> Problem:
    skip_what_cannot_be_judged(judge, language)
    return Problem("x", "code", "Add the numbers.", "", "", tests=cases or CASES, language=language)


@pytest.mark.parametrize("language", SUM)
def test_a_right_program_is_right_and_a_wrong_one_wrong(judge: CodeJudge, language: Language) -> None:
    assert judge.judge(program(judge, language), SUM[language]).record() == {
        "kind": "ok",
        "passed": 3,
        "total": 3,
        "detail": "",
    }
    off = judge.judge(program(judge, language, CASES[0], StreamCase("1", "2")), SUM[language])
    assert (off.kind, off.passed, off.total) == ("wrong", 1, 2)


@pytest.mark.parametrize(
    ("language", "source", "kind"),
    [
        (language, source, kind)
        for kind, sources in (("compile_error", BROKEN), ("runtime_error", FAILING))
        for language, source in sources.items()
    ],
)
def test_what_does_not_compile_or_fails_is_said(judge: CodeJudge, language: Language, source: str, kind: str) -> None:
    verdict = judge.judge(program(judge, language), source)
    assert verdict.kind == kind and verdict.passed == 0, verdict


@pytest.mark.parametrize("language", ENDLESS)
def test_each_test_has_its_processor_time(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(program(judge, language, CASES[0]), ENDLESS[language])
    assert verdict.kind == "timeout", verdict


@pytest.mark.parametrize("language", GREEDY)
def test_memory_is_bounded(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(program(judge, language, CASES[0]), GREEDY[language])
    assert verdict.kind in ("memory", "runtime_error") and verdict.passed == 0, verdict


@pytest.mark.parametrize("language", CHATTY)
def test_output_is_bounded(judge: CodeJudge, language: Language) -> None:
    assert judge.judge(program(judge, language, CASES[0]), CHATTY[language]).kind == "output_limit"


def test_a_timeout_of_one_test_is_not_anothers(judge: CodeJudge) -> None:
    source = "x = input()\nwhile x == 'loop': pass\nprint(x)"
    cases = (StreamCase("a", "a"), StreamCase("loop", "loop"), StreamCase("b", "b"))
    verdict = judge.judge(program(judge, "python", *cases), source)
    assert (verdict.kind, verdict.passed) == ("timeout", 2)


LEAVES_BEHIND = """
import os, sys, time
number = int(input())
if number == 1:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    open("/tmp/from-another-test", "a").write("x")
                    time.sleep(0.01)
            os._exit(0)
    print(1)
else:
    time.sleep(0.3)
    before = os.path.getsize("/tmp/from-another-test") if os.path.exists("/tmp/from-another-test") else 0
    time.sleep(0.3)
    after = os.path.getsize("/tmp/from-another-test") if os.path.exists("/tmp/from-another-test") else 0
    print(2 if before == after else "somebody still writes")
"""


def test_nothing_of_a_test_runs_on_in_the_next(judge: CodeJudge) -> None:
    verdict = judge.judge(program(judge, "python", StreamCase("1", "1"), StreamCase("2", "2")), LEAVES_BEHIND)
    assert verdict.right, verdict
    assert not left_behind()


REACHES_THE_NEXT: dict[Language, str] = {
    "python": """
import fcntl, os, sys, time
folder = next(folder for folder in sys.path if os.path.exists(folder + "/os.py"))
library = open(folder + "/os.py")
places = ["found", "/tmp/found", "/dev/shm/found", "/var/tmp/found", folder + "/found"]
if input() == "1":
    for place in places + ["main.py", ".stdin"]:
        try: open(place, "a").write("x")
        except OSError: pass
    for leave in ("", "group", "session"):
        if os.fork() == 0:
            try: os.setsid() if leave == "session" else os.setpgid(0, 0) if leave else None
            except OSError: pass
            if os.fork() == 0:
                fcntl.flock(library, fcntl.LOCK_EX)
                os.close(1)
                while True: time.sleep(1)
            os._exit(0)
    time.sleep(0.2)
    print("done")
else:
    fcntl.flock(library, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("alone" if not any(map(os.path.exists, places)) else "found something")
""",
    "c": """#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
int main() { int test; scanf("%d", &test); int f = open("/usr/bin/env", O_RDONLY);
  if (test == 1) {
    const char *places[] = {"found", "/tmp/found", "/dev/shm/found", "/var/tmp/found", "program", ".stdin"};
    for (int i = 0; i < 6; i++) { int d = open(places[i], O_WRONLY | O_CREAT | O_APPEND, 0777); if (d >= 0) write(d, "x", 1); }
    mkdir("folder", 0777); unlink("program"); unlink(".stdin"); rename(".", "../moved");
    symlink("/etc", "link"); mkfifo("pipe", 0666);
    for (int s = 1; s < 32; s++) signal(s, SIG_IGN);
    for (int i = 0; i < 3; i++) if (!fork()) { if (i == 1) setsid(); if (i == 2) setpgid(0, 0);
      if (fork()) _exit(0);
      flock(f, LOCK_EX); for (;;) pause(); }
    usleep(200000); puts("done"); return 0; }
  if (flock(f, LOCK_EX | LOCK_NB)) { puts("somebody is left"); return 0; }
  struct stat s; int n = 0;
  const char *places[] = {"found", "/tmp/found", "/dev/shm/found", "/var/tmp/found", "folder", "link", "pipe"};
  for (int i = 0; i < 7; i++) n += !lstat(places[i], &s);
  puts(n ? "found something" : "alone"); }""",
    "bash": """
read -r test
exec 9</usr/bin/env
if [ "$test" = 1 ]; then
  for place in found /tmp/found /dev/shm/found /var/tmp/found main.sh .stdin; do echo x >>"$place"; done 2>/dev/null
  (trap '' HUP TERM; flock 9; sleep 60 >&-) & disown
  (setsid flock /usr/bin/env sleep 60 >&- &)
  sleep 0.2
  echo done
else
  flock -n 9 || { echo somebody is left; exit; }
  for place in found /tmp/found /dev/shm/found /var/tmp/found; do [ -e "$place" ] && { echo found something; exit; }; done
  echo alone
fi
""",
}


@pytest.mark.parametrize("language", REACHES_THE_NEXT)
def test_two_tests_of_a_submission_share_nothing_where_each_has_a_sandbox(judge: CodeJudge, language: Language) -> None:
    if judge.sandbox.clears:
        pytest.skip("tests share a folder in this tier, though no processes: see the test above")
    asked = program(judge, language, StreamCase("1", "done"), StreamCase("2", "alone"), StreamCase("3", "alone"))
    verdict = judge.judge(asked, REACHES_THE_NEXT[language])
    assert verdict.right, verdict
    assert not left_behind()


def test_a_test_reads_its_own_input_from_a_file_and_may_move_in_it(judge: CodeJudge) -> None:
    source = "import sys\nfirst = sys.stdin.readline()\nsys.stdin.seek(0)\nprint(len(first), len(sys.stdin.read()))"
    assert judge.judge(program(judge, "python", StreamCase("ab\ncd\n", "3 6")), source).right


@pytest.mark.parametrize("language", ["java", "javascript", "go"])
def test_a_runtime_that_reserves_memory_has_threads_and_where_nothing_else_counts_no_processes(
    judge: CodeJudge, language: Language
) -> None:
    starts: dict[str, str] = {
        "java": """public class A { public static void main(String[] a) throws Exception {
            Thread t = new Thread(() -> System.out.print("thread")); t.start(); t.join();
            try { new ProcessBuilder("/usr/bin/env").start().waitFor(); System.out.println(" process"); }
            catch (java.io.IOException e) { System.out.println(); } } }""",
        "javascript": """const { Worker } = require("worker_threads"); const w = new Worker("1", { eval: true });
            w.on("exit", () => { const r = require("child_process").spawnSync("/usr/bin/env");
            console.log(r.error ? "thread" : "thread process"); });""",
        "go": """package main
import ("fmt"; "os/exec")
func main() { c := make(chan string); go func() { c <- "thread" }(); fmt.Print(<-c)
  if exec.Command("/usr/bin/env").Run() == nil { fmt.Print(" process") } }""",
    }
    expected = "thread process" if judge.sandbox.clears else "thread"
    verdict = judge.judge(program(judge, language, StreamCase("", expected)), starts[language])
    assert verdict.right, verdict


def test_large_inputs_and_any_text_arrive_as_they_are(judge: CodeJudge) -> None:
    text = "snow ☃ 雪 \t|" * 40_000
    echo = "import sys\ndata = sys.stdin.read()\nprint(len(data), data[-9:])"
    problem = program(judge, "python", StreamCase(text, f"{len(text)} {text[-9:]}"))
    assert judge.judge(problem, echo).right


def test_a_problem_may_bring_limits_of_its_own(judge: CodeJudge) -> None:
    slow = "for _ in range(30_000_000): pass\nprint(6)"
    problem = program(judge, "python", CASES[0])
    assert judge.judge(problem, slow, Limits(cpu_seconds=0.2, wall_seconds=20.0)).kind == "timeout"
    assert judge.judge(problem, slow, Limits(cpu_seconds=20.0, wall_seconds=60.0)).right


def test_problems_that_cannot_be_judged_are_refused(judge: CodeJudge) -> None:
    for problem in (
        Problem("x", "code", "f", "", "", entry_point="f", tests=(StreamCase("", ""),)),
        Problem("x", "code", "f", "", "", tests=(TestCase((1,), 1),)),
        Problem("x", "code", "f", "", ""),
    ):
        with pytest.raises(ValueError, match="'f'"):
            judge.judge(problem, "")


def test_a_missing_compiler_is_named_with_the_way_to_get_it(judge: CodeJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"go is not installed .*golang"):
        judge.judge(Problem("x", "code", "f", "", "", tests=CASES, language="go"), "")
    installed.cache_clear()


def test_what_does_not_work_in_the_weak_tier_is_refused_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right program comes first: where it is not right, no submission is called wrong for it."""
    kit = installed("bash")
    broken = replace(kit, toolchain=replace(kit.toolchain, run=("/usr/bin/missing", "{source}")))
    monkeypatch.setattr("sapience.rewards.programs.installed", lambda _: broken)
    with CodeJudge(sandbox_of("landlock"), 1, LIMITS) as weak:
        for _ in range(2):
            with pytest.raises(UserError, match=r"bash do not work in the sandbox landlock .*No such file.*bubblewrap"):
                weak.judge(Problem("x", "code", "x", "", "", tests=CASES, language="bash"), SUM["bash"])


@pytest.mark.parametrize("language", SUM)
def test_the_program_that_is_tried_first_is_right(judge: CodeJudge, language: Language) -> None:
    asked = program(judge, language, StreamCase("", "works"))
    outcome = Programs(judge.sandbox).outcome(asked, TOOLCHAINS[language].proof, LIMITS)
    assert [case.value.strip() for case in outcome.cases if isinstance(case, Answer)] == [b"works"]


@pytest.mark.parametrize(
    ("written", "expected", "right"),
    [
        (b"6\n", "6", True), (b"6", "6\n\n", True), (b"a  \r\nb\n", "a\nb", True), (b" 6", "6", False),
        (b"6 7", "6\n7", False),
        (b"6\n\n7", "6\n7", False), (b"", "", True), (b"", "0", False), (b"\xff", "\ufffd", True), (b"6.0", "6", False),
    ],
)  # fmt: skip
def test_output_is_compared_line_by_line(written: bytes, expected: str, right: bool) -> None:
    assert same_output(written, expected) is right


def test_nothing_is_left_running_after_all_that(judge: CodeJudge) -> None:
    assert not left_behind()
