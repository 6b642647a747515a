"""Runs inside a sandbox: runs a command once for every test's standard input, in the folder where its files lie.

Each run is a process of its own with a limit on its processor time and on what it writes; when it ends, everything else
that it started is killed before the next one begins, or there is no next one: without a process namespace no signal
can be sent, every test has a sandbox, and whoever put it up kills what is left in it. What comes out are lines of
JSON on descriptor 3, what a run wrote (in base64) or why it does not count. The submission knows its input and not the
right output, so it gains nothing from what it could do to this process.

A program in Python is run by a fork of this interpreter, which saves the start of one for every test.

With `keep` the files that the command left in the folder come out as well: that is how a compiled program gets from the
sandbox of the compiler into that of its tests.
"""

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]  # the module `signal` is slow to load and, in every child, to call
import binascii
import os
import resource
import select
import struct
import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:  # the modules that this one runs without are milliseconds of every submission
    from typing import Any

_ANSWERS = 3
_FOLDER = "."
_ERROR_BYTES = 4000
_PIECE = 65536
_LARGEST_PIPE = 1 << 20
_SECCOMP, _FILTER_MODE = 22, 2
_MEMORY_WORDS = (b"MemoryError", b"OutOfMemoryError", b"heap out of memory", b"std::bad_alloc", b"memory allocation of",
                 b"out of memory")  # fmt: skip


def _tell(line: str) -> None:
    data = (line + "\n").encode()
    while data:
        data = data[os.write(_ANSWERS, data) :]


def _quoted(data: bytes) -> str:
    return '"' + binascii.b2a_base64(data, newline=False).decode() + '"'


def _start(payload: dict[str, Any], program: CodeType | None, standard: tuple[int, int, int], ours: list[int]) -> int:
    """`standard` becomes input, output and error of the child; `ours` are descriptors that it must not have."""
    command, environment, limits = payload["command"], payload["environment"], payload["limits"]
    child = os.fork()
    if child:
        return child
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        for descriptor in (_ANSWERS, *standard, *ours):
            os.close(descriptor)
        for name, value in limits.items():
            resource.setrlimit(
                getattr(resource, name), (value, value + (name == "RLIMIT_CPU"))
            )  # first a signal, then the end
        if payload["filter"]:
            _restrict_calls(payload["filter"])
        if program is not None:
            _interpret(program)
        folder = os.getcwd()
        os.execve(command[0], command, {name: value.format(folder=folder) for name, value in environment.items()})
    except BaseException as error:
        os.write(2, str(error).encode())
    finally:
        os._exit(127)


def _restrict_calls(program: bytes) -> None:
    """Load one more system call filter, as `landlock_launcher` has loaded the first."""
    import ctypes

    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    if ctypes.CDLL(None).prctl(_SECCOMP, _FILTER_MODE, head, None, None):
        raise OSError("no system call filter")


def _interpret(program: CodeType) -> None:
    """Be a program in Python, without the time that starting an interpreter takes. Never returns."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["main.py"]
    status = 0
    try:
        exec(program, module.__dict__)
    except SystemExit as end:
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            os.write(2, end.code.encode("utf-8", "replace"))
    except BaseException as error:
        status = 1
        os.write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
    try:
        sys.stdout.flush()
    except BaseException:
        status = status or 1
    os._exit(status & 255)


def _clear() -> None:
    """Kill all that a run left behind; the first process of the namespace and this one are spared."""
    try:
        os.kill(-1, _signal.SIGKILL)
    except ProcessLookupError:
        pass
    while True:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not _children():
            return


def _children() -> bool:
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _signalled() -> tuple[int, int]:
    """A pipe that can be read when a child has ended: not every sandbox allows a descriptor of a process."""
    reads, writes = os.pipe()
    for descriptor in (reads, writes):
        os.set_blocking(descriptor, False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    _signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    return reads, writes


def _available(descriptor: int, most: int) -> bytes | None:
    """What can be read now; None where there is nothing yet."""
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return None


def _collect(child: int, out: int, err: int, ended: int, payload: dict[str, Any]) -> tuple[bytes, bytes, int, float]:
    """What a run wrote (with more than its limit if there was more) and complained of, its status, its processor seconds.

    Reading ends with the run: what it left running may hold the pipes open.
    """
    said = {out: bytearray(), err: bytearray()}
    most, status, seconds = payload["output_bytes"], None, 0.0
    reader = select.poll()
    for descriptor in (out, err, ended):
        os.set_blocking(descriptor, False)
        reader.register(descriptor, select.POLLIN | select.POLLHUP)
    waiting = set(said)
    while status is None and len(said[out]) <= most:
        for descriptor, _ in reader.poll():
            piece = _available(descriptor, _PIECE)
            if descriptor == ended:
                found, told, usage = os.wait4(child, os.WNOHANG)
                if found:
                    status, seconds = told, usage.ru_utime + usage.ru_stime
            elif piece is None:
                continue
            elif not piece:
                reader.unregister(descriptor)
                waiting.discard(descriptor)
            elif len(said[descriptor]) <= max(most, _ERROR_BYTES):
                said[descriptor] += piece
    if payload["clears"]:
        _clear()
    for descriptor in waiting:  # what is still in the pipe; whoever goes on writing is not waited for
        said[descriptor] += _available(descriptor, _LARGEST_PIPE) or b""
    return bytes(said[out]), bytes(said[err][-_ERROR_BYTES:]), status or 0, seconds


def _holding(stdin: bytes) -> int:
    """A nameless file that says `stdin`."""
    given = os.open(_FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600)
    while stdin:
        stdin = stdin[os.write(given, stdin) :]
    os.lseek(given, 0, os.SEEK_SET)
    return given


def _run(
    case: int, payload: dict[str, Any], program: CodeType | None, stdin: bytes | str, ended: tuple[int, int]
) -> bool:
    """One run, told on descriptor 3; whether its command ended well. `stdin` is what it reads, or the name of a file."""
    given = os.open(stdin, os.O_RDONLY) if isinstance(stdin, str) else _holding(stdin)
    reads_out, writes_out = os.pipe()
    reads_err, writes_err = os.pipe()
    try:
        child = _start(payload, program, (given, writes_out, writes_err), [reads_out, reads_err, *ended])
        for descriptor in (writes_out, writes_err):
            os.close(descriptor)
        out, err, status, seconds = _collect(child, reads_out, reads_err, ended[0], payload)
    finally:
        for descriptor in (given, reads_out, reads_err):
            os.close(descriptor)
    over = len(out) > payload["output_bytes"]
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    told = err.decode("utf-8", "replace").strip()[-300:]
    if over:
        kind, detail = "output_limit", f"more than {payload['output_bytes']} bytes of output"
    elif killed in (_signal.SIGXCPU, _signal.SIGPROF) or seconds >= 0.99 * payload["cpu_seconds"]:
        kind, detail = "timeout", f"more than {payload['cpu_seconds']:g} s of processor time"
    elif (killed or code) and any(word in err for word in _MEMORY_WORDS):
        kind, detail = "memory", told
    elif killed:
        kind, detail = "runtime_error", f"ended by signal {killed}: {told}"
    elif code:
        kind, detail = "runtime_error", f"ended with status {code}: {told}"
    else:
        _tell(f'{{"case":{case},"stdout":{_quoted(out)}}}')
        return True
    _tell(f'{{"case":{case},"kind":"{kind}","detail":{_json.encode_basestring_ascii(detail)}}}')
    return False


def _kept(before: set[str]) -> None:
    """Tell what the command made, the files that were there before left out."""
    for name in os.listdir(_FOLDER):
        if name not in before and not name.startswith(".") and os.path.isfile(name) and not os.path.islink(name):
            with open(name, "rb") as opened:
                _tell(f'{{"file":{_quoted(name.encode())},"data":{_quoted(opened.read())}}}')


def run(payload: dict[str, Any]) -> None:
    """All of it."""
    program = None
    if payload["python"] is not None:
        try:
            program = compile(payload["python"], "main.py", "exec")
        except BaseException as error:
            told = _json.encode_basestring_ascii(f"{type(error).__name__}: {error}"[:300])
            return _tell(f'{{"case":-1,"kind":"compile_error","detail":{told}}}')
    before = set(os.listdir(_FOLDER)) if payload["keep"] else set()
    ended = _signalled()
    for case, stdin in enumerate(payload["inputs"]):
        if _run(case, payload, program, stdin, ended) and payload["keep"]:
            _kept(before)
    return None


if __name__ == "contained":
    run(payload)  # type: ignore[name-defined]  # noqa: F821
