"""What an untrusted program tries, in every tier: each attempt has to fail, and nothing may be left running.

An attack is a function body that returns something true where it got through; an error is a failure of the attack.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from available_tiers import TIERS, left_running, sandbox_of

from sapience.rewards.limits import Limits
from sapience.rewards.sandbox import Sandbox

LIMITS = Limits(cpu_seconds=3.0, wall_seconds=60.0)
SECRET = "7f3a-open-sesame"
CALL = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    wanted = numbers[0] if platform.machine() == "x86_64" else numbers[1]
    result = libc.syscall(*[ctypes.c_long(x) if isinstance(x, int) else x for x in (wanted, *numbers[2:])])
    if result < 0: raise OSError(ctypes.get_errno(), 'no')
    return True
"""
SOCKETS = "import socket\n"

ATTACKS = {
    "tcp to this machine": SOCKETS + "return socket.create_connection(('127.0.0.1', trap['port']), 1) is not None",
    "udp to the world": SOCKETS
    + "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); return s.sendto(b'x', ('192.0.2.1', 53)) > 0",
    "abstract socket": SOCKETS
    + "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + trap['secret']); return True",
    "named socket": SOCKETS + "s = socket.socket(socket.AF_UNIX); s.connect(trap['socket']); return True",
    "netlink socket": SOCKETS
    + "s = socket.socket(16, socket.SOCK_RAW, 0); s.bind((0, 0))\nreturn any(n != 'lo' for _, n in socket.if_nameindex())",
    "read a secret": "return open(trap['file']).read()",
    "read this project": "return open(trap['project']).read()",
    "read the password file": "return open('/etc/passwd').read()",
    "list a folder": "return os.listdir(os.path.dirname(trap['file']))",
    "list the project": "return os.listdir(os.path.dirname(trap['project']))",
    "overwrite a file": "return open(trap['file'], 'r+').write('x')",
    "delete a file": "os.unlink(trap['file']); return True",
    "open a file up": "os.chmod(trap['file'], 0o777); return True",
    "set a file's time": "os.utime(trap['file'], (0, 0)); return True",
    "cut a file": "os.truncate(trap['file'], 0); return True",
    "link to a file": "os.link(trap['file'], trap['file'] + '.link'); return True",
    "rename a file": "os.rename(trap['file'], trap['file'] + '.gone'); return True",
    "write the standard library": "return open(os.__file__, 'a')",
    "add to the standard library": "return open(os.path.dirname(os.path.realpath(os.__file__)) + '/planted.py', 'w')",
    "inherited descriptor": """
found = []
for number in range(4, 1024):
    try: found.append(trap['secret'].encode() in os.pread(number, 99, 0))
    except OSError: pass
return any(found)""",
    "environment": "return any(trap['secret'] in value for value in os.environ.values())",
    "environment of others": """
for name in os.listdir('/proc'):
    if name.isdigit():
        try:
            if trap['secret'].encode() in open(f'/proc/{name}/environ', 'rb').read(): return True
        except OSError: pass""",
    "descriptors of others": """
for process in (1, os.getppid(), trap['harness']):
    for number in range(64):
        try:
            if trap['secret'].encode() in open(f'/proc/{process}/fd/{number}', 'rb').read(99): return True
        except OSError: pass""",
    "installed packages": """
sys.path += trap['packages']
import numpy
return True""",
    "signal to the harness": "os.kill(trap['harness'], 0) if trap['harness'] > 99 else 1 / 0; return True",
    "kill a process": "os.kill(trap['victim'], 9) if trap['victim'] > 99 else 1 / 0; return True",
    "limits of others": "import resource; resource.prlimit(trap['victim'], resource.RLIMIT_CPU, (1, 1)); return True",
    "priority of others": "os.setpriority(os.PRIO_PROCESS, trap['victim'], 19); return True",
    "trace a process": CALL + "return call(101, 117, 16, trap['victim'], 0, 0)",
    "read a process": CALL + "return call(310, 270, trap['victim'], 0, 0, 0, 0, 0)",
    "user namespace": CALL + "return call(272, 97, 0x10000000)",
    "user namespace by clone": CALL + """
child = libc.syscall(ctypes.c_long(56 if platform.machine() == 'x86_64' else 220), ctypes.c_long(0x10000011), 0, 0, 0, 0)
if child == 0: os._exit(0)
return child > 0""",
    "clone3": CALL + """
fields = (ctypes.c_uint64 * 8)(0x10000000)
child = libc.syscall(ctypes.c_long(435), fields, ctypes.c_long(64))
if child == 0: os._exit(0)
return child > 0""",
    "mount": CALL + "return call(165, 40, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "new mount interface": CALL + "return call(430, 430, b'tmpfs', 0)",
    "chroot": "os.chroot('/usr'); return True",
    "io_uring": CALL + "return call(425, 425, 1, ctypes.create_string_buffer(120))",
    "bpf": CALL + "return call(321, 280, 0, ctypes.create_string_buffer(72), 72)",
    "keyring": CALL + "return call(250, 219, 0, -3, 1)",
    "perf": CALL + "return call(298, 241, ctypes.create_string_buffer(112), 0, -1, -1, 0)",
    "userfaultfd": CALL + "return call(323, 282, 1)",
    "open by handle": CALL + "return call(304, 265, -100, ctypes.create_string_buffer(128), 0)",
    "uncounted memory file": "return os.memfd_create('x') > 0",
    "shared memory": CALL + "return call(29, 194, 0, 1 << 20, 0o1600)",
    "type into a terminal": "import fcntl; fcntl.ioctl(3, 0x5412, b'x'); return True",
    "become root": "os.setuid(0); return os.getuid() == 0 and bool(open('/etc/shadow').read())",
    "make a device": "os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0)); return open('/tmp/disk', 'rb').read(1)",
    "raise limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return True",
    "much memory": "return len(bytearray(trap['bytes']))",
    "many processes": """
for _ in range(trap['processes']):
    if os.fork() == 0:
        import time; time.sleep(60); os._exit(0)
return True""",
    "fill the disk": """
for number in range(64):
    with open(f'/tmp/fill{number}', 'wb') as file:
        for _ in range(4): file.write(bytes(1 << 20))
return True""",
    "fill shared memory": "return open('/dev/shm/fill', 'wb').write(bytes(1 << 20))",
    "run a shell": "os.execv('/bin/sh', ['/bin/sh', '-c', 'true'])",
}  # fmt: skip
TEMPLATE = """
import os, sys
trap = payload
def attack():
    {body}
try:
    got_through = bool(attack())
    words = 'got through' if got_through else 'failed'
except BaseException as error:
    words = f'failed: {{error!r}}'
os.write(3, words.encode())
"""


@pytest.fixture(scope="module", params=TIERS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return sandbox_of(request.param)


@pytest.fixture(scope="module")
def trap() -> Iterator[dict[str, Any]]:
    """Everything an attack could be after, outside: files, sockets, a process, an open descriptor, a variable."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    file = folder / "secret"
    file.write_text(SECRET)
    file.chmod(0o666)
    descriptor = os.open(file, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    os.environ["SAPIENCE_SECRET"] = SECRET
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        abstract.bind("\0" + SECRET)
        abstract.listen()
        named.bind(str(folder / "socket"))
        named.listen()
        (folder / "socket").chmod(0o777)
        yield {
            "port": listener.getsockname()[1],
            "socket": str(folder / "socket"),
            "file": str(file),
            "secret": SECRET,
            "project": __file__,
            "packages": [path for path in sys.path if path.endswith("site-packages")],
            "harness": os.getpid(),
            "victim": victim.pid,
            "processes": 4 * LIMITS.processes,
            "bytes": 2 * LIMITS.memory_mb << 20,
        }
        assert victim.poll() is None, "the process outside was killed"
    assert file.read_text() == SECRET
    assert sorted(path.name for path in folder.iterdir()) == ["secret", "socket"]
    victim.kill()
    victim.wait()
    os.close(descriptor)
    del os.environ["SAPIENCE_SECRET"]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(sandbox: Sandbox, trap: dict[str, Any], name: str) -> None:
    program = TEMPLATE.format(body=ATTACKS[name].replace("\n", "\n    "))
    contained = sandbox.run(program, trap, LIMITS)
    assert contained.started and contained.ending == "exit", contained
    assert contained.output.decode().startswith("failed") or contained.status != 0, contained
    if "return call(" in ATTACKS[name]:
        assert b"PermissionError" in contained.output, "the filter says no, not the kernel for some other reason"


def test_the_harness_of_these_tests_would_see_an_attack_succeed(sandbox: Sandbox, trap: dict[str, Any]) -> None:
    """Outside of a sandbox the same programs get through, so that the test above is not empty."""
    for name in ("read a secret", "tcp to this machine", "abstract socket", "environment", "signal to the harness"):
        program = f"payload = {trap!r}\n" + TEMPLATE.format(body=ATTACKS[name].replace("\n", "\n    "))
        told = subprocess.run(
            [sys.executable, "-c", program.replace("os.write(3", "os.write(1")], capture_output=True, check=True
        )
        assert told.stdout == b"got through", name


LINGERING = {
    "children": "import os, time\nfor _ in range(5):\n if os.fork() == 0: time.sleep(99)",
    "daemon": """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        time.sleep(99)""",
    "deaf to signals": """
import os, signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
if os.fork() == 0: time.sleep(99)""",
    "fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
}  # fmt: skip


@pytest.mark.parametrize("name", LINGERING)
def test_nothing_is_left_running(sandbox: Sandbox, name: str) -> None:
    contained = sandbox.run(LINGERING[name], None, Limits(cpu_seconds=1.0, wall_seconds=0.6))
    assert contained.started
    patience = time.monotonic() + 5
    while left_running() and time.monotonic() < patience:  # the kernel takes a moment to empty a namespace
        time.sleep(0.02)
    assert not left_running()


def test_output_is_cut_off_while_it_comes(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    contained = sandbox.run("import os\nwhile True: os.write(3, bytes(65536))", None, LIMITS)
    assert contained.ending == "output"
    assert len(contained.output) < 1 << 20 and time.monotonic() - begun < 5


def test_what_is_printed_goes_nowhere(sandbox: Sandbox) -> None:
    program = "import os\nfor n in (0, 1, 2):\n try: os.write(n, b'ok passed')\n except OSError: pass\nprint('passed')"
    contained = sandbox.run(program, None, LIMITS)
    assert (contained.output, contained.complaint) == (b"", "")


def test_the_environment_is_empty_and_the_standard_library_is_there(sandbox: Sandbox) -> None:
    program = "import json, os, re, math, collections, decimal\nos.write(3, json.dumps(sorted(os.environ)).encode())"
    contained = sandbox.run(program, None, LIMITS)
    assert set(eval(contained.output)) <= {"PWD", "LC_CTYPE"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 calls are a thing of x86_64")
def test_a_call_of_another_kind_ends_the_process(sandbox: Sandbox) -> None:
    contained = sandbox.run("import ctypes\nctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))", None, LIMITS)
    assert contained.status == -31  # SIGSYS


def test_a_program_that_sleeps_is_told_from_one_that_got_no_processor(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=30.0, wall_seconds=0.6)
    assert sandbox.run("import time; time.sleep(60)", None, limits).ending == "idle"
    assert sandbox.run("while True: pass", None, limits).ending == "wall"
