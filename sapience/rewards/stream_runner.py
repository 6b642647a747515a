"""Runs inside a sandbox: writes a submission's files, then runs a command once for every test's standard input.

Each run is a process of its own with the folder /tmp to work in, a limit on its processor time and on what it writes;
when it ends, everything else that it started is killed before the next one begins. What comes out are lines of JSON on
descriptor 3, what a run wrote (in base64) or why it does not count. The submission knows its input and not the right
output, so it gains nothing from what it could do to this process.

A program in Python is run by a fork of this interpreter, which saves the start of one for every test.

With `keep` the files that the command left in the folder come out as well: that is how a compiled program gets from the
sandbox of the compiler into that of its tests.
"""

from __future__ import annotations

import _json
import binascii
import os
import resource
import select
import signal
import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:  # the modules that this one runs without are milliseconds of every submission
    from typing import Any

_ANSWERS = 3
_FOLDER = "/tmp"
_ERROR_BYTES = 4000
_PIECE = 65536
_MEMORY_WORDS = (b"MemoryError", b"OutOfMemoryError", b"heap out of memory", b"std::bad_alloc", b"memory allocation of",
                 b"out of memory")  # fmt: skip


def _tell(line: str) -> None:
    data = (line + "\n").encode()
    while data:
        data = data[os.write(_ANSWERS, data) :]


def _quoted(data: bytes) -> str:
    return '"' + binascii.b2a_base64(data, newline=False).decode() + '"'


def _write(name: str, data: bytes, mode: int) -> None:
    path = os.path.join(_FOLDER, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def _start(payload: dict[str, Any], program: CodeType | None, stdin: int, out: int, err: int) -> int:
    command, environment, limits = payload["command"], payload["environment"], payload["limits"]
    child = os.fork()
    if child:
        return child
    try:
        for number, descriptor in enumerate((stdin, out, err)):
            os.dup2(descriptor, number)
        os.closerange(_ANSWERS, 256)
        for name, value in limits.items():
            resource.setrlimit(
                getattr(resource, name), (value, value + (name == "RLIMIT_CPU"))
            )  # first a signal, then the end
        os.chdir(_FOLDER)
        if program is not None:
            _interpret(program)
        os.execve(command[0], command, environment)
    except BaseException as error:
        os.write(2, str(error).encode())
    finally:
        os._exit(127)


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
        os.kill(-1, signal.SIGKILL)
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


def _collect(child: int, out: int, err: int, most: int) -> tuple[bytes, bytes, bool, int, float]:
    """What a run wrote and complained of, whether it wrote too much, its status, its processor seconds.

    Reading ends with the run: what it left running may hold the pipes open.
    """
    said = {out: bytearray(), err: bytearray()}
    over, status, seconds = False, None, 0.0
    reader = select.poll()
    for descriptor in said:
        os.set_blocking(descriptor, False)
        reader.register(descriptor, select.POLLIN | select.POLLHUP)
    ended = os.pidfd_open(child)
    reader.register(ended, select.POLLIN)
    waiting = set(said)
    while status is None or waiting:
        for descriptor, _ in reader.poll(0 if status is not None else None):
            if descriptor == ended:
                _, status, usage = os.wait4(child, 0)
                seconds = usage.ru_utime + usage.ru_stime
                reader.unregister(ended)
                _clear()
                continue
            try:
                piece = os.read(descriptor, _PIECE)
            except BlockingIOError:
                continue
            if not piece:
                reader.unregister(descriptor)
                waiting.discard(descriptor)
            elif descriptor == out and len(said[out]) + len(piece) > most:
                over = True
                os.kill(child, signal.SIGKILL)
                reader.unregister(descriptor)
                waiting.discard(descriptor)
            elif len(said[descriptor]) < max(most, _ERROR_BYTES):
                said[descriptor] += piece
    os.close(ended)
    return bytes(said[out]), bytes(said[err][-_ERROR_BYTES:]), over, status, seconds


def _run(case: int, payload: dict[str, Any], program: CodeType | None, stdin: bytes) -> bool:
    """One run, told on descriptor 3; whether its command ended well."""
    given = os.open(_FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600)
    while stdin:
        stdin = stdin[os.write(given, stdin) :]
    os.lseek(given, 0, os.SEEK_SET)
    reads_out, writes_out = os.pipe()
    reads_err, writes_err = os.pipe()
    try:
        child = _start(payload, program, given, writes_out, writes_err)
        for descriptor in (writes_out, writes_err):
            os.close(descriptor)
        out, err, over, status, seconds = _collect(child, reads_out, reads_err, payload["output_bytes"])
    finally:
        for descriptor in (given, reads_out, reads_err):
            os.close(descriptor)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    told = err.decode("utf-8", "replace").strip()[-300:]
    if over:
        kind, detail = "output_limit", f"more than {payload['output_bytes']} bytes of output"
    elif killed in (signal.SIGXCPU, signal.SIGPROF) or seconds >= 0.99 * payload["cpu_seconds"]:
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


def _kept(names: set[str]) -> None:
    """Tell what the command made, the files that were there before left out."""
    for folder, _, files in os.walk(_FOLDER):
        for file in files:
            path = os.path.join(folder, file)
            name = os.path.relpath(path, _FOLDER)
            if name in names or name.startswith(".") or not os.path.isfile(path) or os.path.islink(path):
                continue
            with open(path, "rb") as opened:
                data = opened.read()
            _tell(f'{{"file":{_quoted(name.encode())},"mode":{os.stat(path).st_mode & 0o777},"data":{_quoted(data)}}}')


def run(payload: dict[str, Any]) -> None:
    """All of it."""
    for name, (data, mode) in payload["files"].items():
        _write(name, data, mode)
    program = None
    if payload["python"] is not None:
        try:
            program = compile(payload["python"], "main.py", "exec")
        except BaseException as error:
            told = _json.encode_basestring_ascii(f"{type(error).__name__}: {error}"[:300])
            return _tell(f'{{"case":-1,"kind":"compile_error","detail":{told}}}')
    for case, stdin in enumerate(payload["inputs"]):
        well = _run(case, payload, program, stdin)
        if payload["keep"] and well:
            _kept(set(payload["files"]))
    return None


if __name__ == "contained":
    run(payload)  # type: ignore[name-defined]  # noqa: F821
