"""The weak tier, for machines that forbid namespaces (most containers): Landlock, a longer system call filter, limits.

A program reads nothing but the standard library and shared libraries, writes nothing, opens no socket, sends no signal
and cannot leave the process group that is killed at the end. What makes the tier weaker: it shares the machine's
process, network and user namespaces, so a gap in the filter leads straight to them; it can ask whether a path exists,
how large it is, where links lead and what packages are installed; and for an ordinary user the number of processes
is bounded only together with all others of that user.

Root becomes a random user before the program starts, as in the strong tier. Not covered: a common limit on memory.
"""

from __future__ import annotations

import contextlib
import os
import sysconfig
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sapience.recipe.errors import UserError
from sapience.rewards.contained_job import BARE, Surroundings, job_bytes, program_text
from sapience.rewards.contained_process import Contained, watch
from sapience.rewards.identity import random_identity
from sapience.rewards.interpreter import OPTIONS, Interpreter
from sapience.rewards.limits import Limits
from sapience.rewards.syscall_filter import ANYWHERE, WITHOUT_NAMESPACES, filter_program

_WRITABLE = ["/dev/null"]


def _weak_filter() -> bytes:
    return filter_program(ANYWHERE | WITHOUT_NAMESPACES, other_limits=False)


@dataclass(frozen=True)
class LandlockSandbox:
    """Runs programs in the given interpreter, which confines itself before it starts them."""

    interpreter: Interpreter
    tier: Literal["landlock"] = "landlock"
    weaker: bool = True
    description: str = (
        "Landlock, weaker than bubblewrap: no namespaces, but only the standard library to read, nothing to write, "
        "no sockets and signals, a system call filter, limits on processor time, memory and processes"
    )
    _filter: bytes = field(default_factory=_weak_filter, repr=False)

    @cached_property
    def _paths(self) -> tuple[list[str], list[str]]:
        read, listed = self.interpreter.taken_apart()
        return [str(path) for path in read], [str(path) for path in listed]

    def run(self, program: str, payload: Any, limits: Limits, around: Surroundings = BARE) -> Contained:
        """Execute the source `program` with `payload` as a global; it may answer on descriptor 3.

        Raises UserError where it needs more than a bare Python: nothing can be written here.
        """
        if around != BARE:
            raise UserError(
                "only functions in Python can be judged where namespaces are forbidden: programs and other languages need "
                "bubblewrap (allow user namespaces; sapience doctor says more)"
            )
        identity = random_identity()
        processes = limits.processes + (_running_tasks() if identity is None else 0)
        standard_library = str(Path(sysconfig.get_path("stdlib")).resolve()) if identity is not None else ""
        wishes = (*self._paths, _WRITABLE, standard_library, self._filter)
        confinement = program_text("landlock_launcher")
        job = job_bytes(program, payload, limits, processes, identity, confinement, wishes)
        return watch(
            [str(self.interpreter.executable), *OPTIONS, program_text("contained_entry")], job=job, limits=limits
        )


def _running_tasks() -> int:
    """Processes and threads of our user on this machine, all of which the kernel counts against a process limit."""
    count, user = 0, os.geteuid()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += Path(entry.path, "task").stat().st_nlink - 2
    return count
