"""The weak tier, for machines that forbid namespaces (most containers): Landlock, a longer system call filter, limits.

A program reads nothing but the standard library and shared libraries (a whole program: /usr and its language's folder),
writes nothing, opens no socket, sends no signal and cannot leave the process group that is killed at the end. Compilers
write, into a folder on disk that is removed after them; what they made lies in another one where nothing can be
written, so that a program finds neither room on the disk nor a trace of another test. Since nothing inside can kill what
a test left running, every test has a sandbox of its own.

What makes the tier weaker: it shares the machine's process, network and user namespaces, so a gap in the filter leads
straight to them; it can ask whether a path exists, how large it is, where links lead and what packages are installed;
and for an ordinary user the number of processes is bounded only together with all others of that user. What a
compiler writes is seen at looks 0.1 to 0.3 s apart, so it can exceed its limit by what a disk takes in that time (some
hundred megabytes).

Root becomes a random user before the program starts, as in the strong tier. Not covered: a common limit on memory
(a runtime that reserves address space gets no second process instead), programs that need to write or signal, and
toolchains in places that a random user cannot reach, such as /root.
"""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from sapience.recipe.errors import UserError
from sapience.rewards.contained_job import BARE, START, Surroundings, job_bytes, program_text
from sapience.rewards.contained_process import Contained, watch
from sapience.rewards.identity import random_identity
from sapience.rewards.interpreter import OPTIONS, Interpreter
from sapience.rewards.limits import Limits
from sapience.rewards.scratch import open_to_all, scratch_folder, too_full
from sapience.rewards.syscall_filter import ANYWHERE, WITHOUT_NAMESPACES, filter_program

_WRITABLE = ["/dev/null"]
_RANDOM = ["/dev/random", "/dev/urandom", "/dev/zero"]


def _weak_filter() -> bytes:
    return filter_program(ANYWHERE | WITHOUT_NAMESPACES, other_limits=False)


@dataclass(frozen=True)
class LandlockSandbox:
    """Runs programs in the given interpreter, which confines itself before it starts them."""

    interpreter: Interpreter
    tier: Literal["landlock"] = "landlock"
    weaker: bool = True
    clears: bool = False
    description: str = (
        "Landlock, weaker than bubblewrap: no namespaces, but only system files to read, nothing to write, "
        "no sockets and signals, a system call filter, limits on processor time, memory and processes"
    )
    _filter: bytes = field(default_factory=_weak_filter, repr=False)

    def run(self, program: str, payload: Any, limits: Limits, around: Surroundings = BARE) -> Contained:
        """Execute the source `program` with `payload` as a global; it may answer on descriptor 3.

        Raises UserError where it needs what the user that it becomes cannot reach, or where there is no place for files.
        """
        identity = random_identity()
        visible = around.visible or self.interpreter
        if identity is not None:
            _check_reach(visible, self.interpreter)
        processes = limits.processes + (_running_tasks() if identity is None else 0)
        standard_library = str(Path(sysconfig.get_path("stdlib")).resolve()) if identity is not None else ""
        read, listed = _paths(visible)
        read = [*read, *(_RANDOM if around.sees_itself else ())]
        try:
            with _folder(identity, around) as folder:
                own = [folder] if folder and around.makes_files else []
                if folder and not own:
                    read.append(folder)
                wishes = (read, listed, _WRITABLE, own, standard_library, self._filter)
                confinement = program_text("landlock_launcher")
                return watch(
                    [str(self.interpreter.executable), *OPTIONS, START],
                    job=job_bytes(program, payload, limits, processes, identity, confinement, wishes, around, folder),
                    limits=limits,
                    overfull=partial(too_full, Path(folder), around.scratch_bytes) if own else None,
                )
        except OSError as error:
            return Contained(False, "exit", 127, complaint=f"no folder for its files: {error}")


@contextlib.contextmanager
def _folder(identity: int | None, around: Surroundings) -> Iterator[str]:
    """A folder for what the program finds or makes; an empty name where there is neither."""
    if not around.files and not around.makes_files:
        yield ""
        return
    with scratch_folder(identity, around.makes_files) as folder:
        yield str(folder)


@lru_cache(maxsize=32)
def _paths(visible: Interpreter) -> tuple[list[str], list[str]]:
    read, listed = visible.taken_apart()
    return [str(path) for path in read], [str(path) for path in listed]


@lru_cache(maxsize=32)
def _check_reach(visible: Interpreter, own: Interpreter) -> None:
    """Our own interpreter is started before the program becomes another user, its library is held open."""
    closed = [path for path in visible.roots if path not in own.roots and not open_to_all(path)]
    if closed:
        raise UserError(
            f"programs cannot be judged with {closed[0]}: the user that they become has no way there; install the language "
            "for all users (below /usr or /opt), or have bubblewrap judge (allow user namespaces; sapience doctor says more)"
        )


def _running_tasks() -> int:
    """Processes and threads of our user on this machine, all of which the kernel counts against a process limit."""
    count, user = 0, os.geteuid()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += Path(entry.path, "task").stat().st_nlink - 2
    return count
