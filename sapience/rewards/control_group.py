"""A limit on the memory and the processes of a submission as a whole, where the kernel's control groups can be used.

Limits of single processes let a program hold their product; a group holds all of it, memory in the private folder
included. Version 1 is used where its controllers can be written (root, some containers), version 2 where memory and
pids were delegated to us. Elsewhere there is none, and the sandbox's description does not claim it.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_CLEARING_SECONDS = 5.0
_ABANDONED_SECONDS = 600.0
"""So old is no group of a judge that lives: one is made for every submission."""
_numbers = itertools.count()

JOIN = 'a=$1; b=$2; shift 2; echo 0 > "$a" && echo 0 > "$b" && exec "$@"'
"""A shell that enters two groups (of version 2 the same one twice) and becomes the command."""


@dataclass(frozen=True, slots=True)
class Group:
    """One submission's group (of version 1: one for each controller)."""

    memory: Path
    pids: Path

    def entrance(self) -> list[str]:
        """The beginning of a command that is to run inside."""
        return ["/bin/sh", "-c", JOIN, "sh", str(self.memory / "cgroup.procs"), str(self.pids / "cgroup.procs")]

    def ran_out(self) -> bool:
        """Whether the kernel has killed a process for its memory."""
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError, ValueError):
                rows = dict(line.split() for line in (self.memory / name).read_text().splitlines())
                return int(rows.get("oom_kill", 0)) > 0
        return False


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """Where groups can be made."""

    memory: Path
    pids: Path
    version: int

    @contextmanager
    def group(self, memory_bytes: int, processes: int) -> Iterator[Group]:
        """A group with these limits; whoever is still in it at the end is killed. Raises OSError where none can be made."""
        name = f"sapience-{os.getpid()}-{next(_numbers)}"
        made = Group(self.memory / name, self.pids / name)
        folders = list(dict.fromkeys((made.memory, made.pids)))
        try:
            for folder in folders:
                folder.mkdir()
            if self.version == 1:
                (made.memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
                with suppress(OSError):  # where swap is accounted for
                    (made.memory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
            else:
                (made.memory / "memory.max").write_text(str(memory_bytes))
                with suppress(OSError):
                    (made.memory / "memory.swap.max").write_text("0")
            (made.pids / "pids.max").write_text(str(processes))
            yield made
        finally:
            for folder in folders:
                _remove(folder)

    def sweep(self) -> None:
        """Take away the empty groups of judges that were killed."""
        for parent in {self.memory, self.pids}:
            for folder in parent.glob("sapience-*-*"):
                with suppress(OSError):
                    old = time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS
                    if old and not Path("/proc", folder.name.split("-")[1]).exists():
                        folder.rmdir()


def _remove(folder: Path) -> None:
    """Kill and wait until the group is empty, then take it away; what the kernel is still busy with is left to it."""
    end = time.monotonic() + _CLEARING_SECONDS
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            with suppress(OSError, ValueError):
                for number in (folder / "cgroup.procs").read_text().split():
                    os.kill(int(number), signal.SIGKILL)
            if time.monotonic() > end:
                return
            time.sleep(0.002)


@cache
def find_control_groups() -> ControlGroups | None:
    """Where groups can be made with limits that are kept; None where they cannot."""
    for found in _candidates():
        try:
            with found.group(64 << 20, 8):
                found.sweep()
                return found
        except OSError:
            continue
    return None


def _candidates() -> Iterator[ControlGroups]:
    own: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            own |= dict.fromkeys(names.split(",") or [""], path)
    if {"memory", "pids"} <= own.keys():
        for inside in (True, False):
            memory, pids = (_ROOT / name / (own[name].lstrip("/") if inside else "") for name in ("memory", "pids"))
            yield ControlGroups(memory, pids, 1)
    if "" in own:
        here = _ROOT / own[""].lstrip("/")
        for folder in (here, here.parent):
            with suppress(OSError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text().split()):
                    yield ControlGroups(folder, folder, 2)
