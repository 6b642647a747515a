"""A sandbox shows before it is used that it holds: the attempts of `escape_attempts` are made in it, each has to fail.

This is a check of the machine, not a proof: it finds a kernel that ignores a rule, a missing mount, a limit that does
not bind. Traps are laid outside (a listening port, a readable secret, an open descriptor, a process to kill), so that
an attempt that works is seen to work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sapience.rewards.contained_job import program_text
from sapience.rewards.contained_process import Contained
from sapience.rewards.limits import Limits

_LIMITS = Limits(cpu_seconds=5.0, wall_seconds=60.0)
_FINISHED = "finished"


class Runs(Protocol):
    """What is tested: anything that runs programs."""

    def run(self, program: str, payload: Any, limits: Limits) -> Contained: ...


def weaknesses(sandbox: Runs) -> list[str]:
    """What is wrong with `sandbox`, in words; empty where it holds."""
    secret = secrets.token_hex(16)
    with ExitStack() as traps:
        payload = {
            "secret": secret,
            "port": traps.enter_context(_listening(("127.0.0.1", 0), socket.AF_INET))[1],
            "abstract": traps.enter_context(_listening("\0" + secret, socket.AF_UNIX)),
            "files": [traps.enter_context(_secret_file(secret)), __file__],
            "processes": 4 * _LIMITS.processes,
            "bytes": 2 * _LIMITS.memory_mb << 20,
        }
        victim = traps.enter_context(_victim())
        try:
            contained = sandbox.run(program_text("escape_attempts"), {**payload, "victim": victim.pid}, _LIMITS)
        except OSError as error:
            return [f"it does not start: {error}"]
        killed = victim.poll() is not None
    if not contained.started:
        return [f"it does not start: {contained.complaint[-300:] or f'status {contained.status}'}"]
    lines = contained.output.decode("utf-8", "replace").splitlines()
    if _FINISHED not in lines:
        return [f"a harmless program does not run to its end in it ({contained.ending}, status {contained.status})"]
    return [line for line in lines if line != _FINISHED] + (["a program killed a process outside"] if killed else [])


@contextmanager
def _listening(address: Any, family: socket.AddressFamily) -> Iterator[Any]:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        name = listener.getsockname()
        yield name.decode() if isinstance(name, bytes) else name


@contextmanager
def _secret_file(secret: str) -> Iterator[str]:
    """A file anyone may read and write, held open by a descriptor that children would inherit."""
    with tempfile.NamedTemporaryFile("w", prefix="sapience-self-test-") as file:
        file.write(secret)
        file.flush()
        Path(file.name).chmod(0o666)
        descriptor = os.open(file.name, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        try:
            yield file.name
        finally:
            os.close(descriptor)


@contextmanager
def _victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()
