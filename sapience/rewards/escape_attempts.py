"""Runs inside a sandbox that is being tested: tries to get out, and tells on descriptor 3 where it did.

`payload` names the traps that `self_test` laid outside. The attempt to kill comes last, after the report, as a small
number may by chance be this very process in a namespace of its own.
"""

import contextlib
import os
import signal
import time
from typing import Any

_ANSWERS = 3


def _reaches(family: str, address: Any) -> bool:
    import socket

    try:
        with socket.socket(getattr(socket, family), socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(address)
            return True
    except OSError:
        return False


def _opens(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.read(1)
            return True
    except OSError:
        return False


def _writes(path: str) -> bool:
    try:
        with open(path, "r+b"):
            return True
    except OSError:
        return False


def _inherits(secret: str) -> bool:
    for descriptor in range(4, 256):
        try:
            if secret.encode() in os.pread(descriptor, 4096, 0):
                return True
        except OSError:
            continue
    return False


def _multiplies(processes: int) -> bool:
    children = []
    try:
        for _ in range(processes):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        return False
    return True


def _allocates(count: int) -> bool:
    try:
        return len(bytearray(count)) == count
    except MemoryError:
        return False


def _makes_a_namespace() -> bool:
    import ctypes

    return ctypes.CDLL(None).unshare(0x10000000) == 0


def _attempt(payload: dict[str, Any]) -> list[str]:
    found = {
        "a program reached a port of this machine": _reaches("AF_INET", ("127.0.0.1", payload["port"])),
        "a program reached an abstract socket of this machine": _reaches("AF_UNIX", payload["abstract"]),
        "a program read a file of this machine": any(_opens(path) for path in payload["files"]),
        "a program wrote a file of this machine": any(_writes(path) for path in payload["files"]),
        "a program read a descriptor of its parent": _inherits(payload["secret"]),
        "a program took more memory than its limit": _allocates(payload["bytes"]),
        "a program made a user namespace": _makes_a_namespace(),
        "a program started more processes than its limit": _multiplies(payload["processes"]),
    }
    return [words for words, happened in found.items() if happened]


if __name__ == "contained":
    report = _attempt(payload)  # type: ignore[name-defined]  # noqa: F821
    os.write(_ANSWERS, "".join(f"{line}\n" for line in [*report, "finished"]).encode())
    with contextlib.suppress(OSError):
        os.kill(payload["victim"], signal.SIGKILL)  # type: ignore[name-defined]  # noqa: F821
