"""What goes into a sandbox, as bytes: program, payload, limits, and the confinement that a tier without namespaces adds.

Programs are compiled here, once, and travel as code objects: the interpreter inside is the one behind ours.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sapience.rewards.interpreter import Interpreter
from sapience.rewards.limits import Limits

START = """
import marshal, posix
pieces = []
while piece := posix.read(0, 1 << 20):
    pieces.append(piece)
job = marshal.loads(b"".join(pieces))
exec(marshal.loads(job["entry"]), {"__name__": "entry", "job": job})
"""
"""What an interpreter is started with: compiled by every one of them, so it only fetches the job."""
_OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sandbox offers beyond a bare Python: compilers and other runtimes need more room."""

    visible: Interpreter | None = None
    """What of the machine can be read; None for Python's standard library alone."""
    scratch_bytes: int = 1 << 24
    """Size of the folder that a program may write to, and of its largest file."""
    reserved_mb: int = 0
    """Address space of a process on top of `Limits.memory_mb`, for runtimes that reserve what they do not use."""
    sees_itself: bool = False
    """Whether there are sources of random numbers and, in a process namespace of its own, a /proc."""
    makes_files: bool = False
    """Whether it fails where it cannot write: compilers; without namespaces nothing else gets a folder to write to."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What lies in the folder to begin with, executable: plain names, no paths."""


BARE = Surroundings()


@cache
def program_text(name: str) -> str:
    """The text of a module of this room that is made to run inside a sandbox, to be read and not imported."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


@lru_cache(maxsize=32)
def _compiled(program: str) -> bytes:
    return marshal.dumps(compile(program, "contained", "exec")) if program else b""


def job_bytes(
    program: str,
    payload: Any,
    limits: Limits,
    processes: int,
    identity: int | None = None,
    confinement: str = "",
    wishes: Any = None,
    around: Surroundings = BARE,
    folder: str = "",
) -> bytes:
    """All that START reads: `contained_entry` and what that needs.

    `payload` and `wishes` are made of JSON-like values and bytes, `processes` is what RLIMIT_NPROC is set to, `identity`
    the user to become, `confinement` a program that runs before the start with `wishes` as a global, `folder` where the
    program begins and finds its files, if anywhere.
    """
    seconds = math.ceil(limits.cpu_seconds)
    alike = {
        "RLIMIT_NPROC": processes,
        "RLIMIT_FSIZE": around.scratch_bytes,
        "RLIMIT_NOFILE": _OPEN_FILES if around.visible is None else 4 * _OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_AS": (limits.memory_mb + around.reserved_mb) << 20,
    }
    rows = [(name, value, value) for name, value in alike.items()] + [("RLIMIT_CPU", seconds, seconds + 1)]
    return marshal.dumps(
        {
            "entry": _compiled(program_text("contained_entry")),
            "identity": marshal.dumps(identity),
            "limits": marshal.dumps(rows),
            "folder": marshal.dumps((folder, dict(around.files))),
            "confinement": _compiled(confinement),
            "wishes": marshal.dumps(wishes),
            "program": _compiled(program),
            "payload": marshal.dumps(payload),
        }
    )
