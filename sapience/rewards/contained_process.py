"""Starts one contained program, reads what it says up to a limit, and always sees it to its end.

Whatever happens, when `watch` returns the whole process group is dead and its leader was waited for: no zombies and no
strays. Nothing in here waits without a deadline.

When the wall clock runs out, the question is whose fault it is. A program that computed or stood in the queue for
a processor was stopped by a crowded machine, which says nothing about it ("wall"). One that was asleep at most of the
times somebody looked, or had had all its processor time by means of many processes, has itself to blame ("idle").
Looks come at random moments, so that a program cannot be awake for them alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from sapience.rewards.limits import Limits

Ending = Literal["exit", "wall", "idle", "output", "disk", "lost"]
"""By itself, by the wall clock (see above for the two), by saying or writing too much, or by somebody outside the sandbox."""

STARTED = b"started\n"
"""The first thing a sandbox writes once it is shut, before it runs anything that is not ours."""
_COMPLAINT_BYTES = 4096
_AFTER_EXIT_SECONDS = 1.0
_AFTER_KILL_SECONDS = 10.0
_LOOK_SECONDS, _SHORTEST_LOOK_SECONDS = 0.2, 0.05
_LOOKS = 6
"""At least so many on an average before the wall clock runs out, if it leaves time for them."""
_AWAKE_SHARE = 0.5
_ENOUGH_LOOKS = 3
"""To blame a program for sleeping: it may be caught asleep once or twice while it waits for a child of its own."""


@dataclass(frozen=True, slots=True)
class Contained:
    """What came of one program: `output` without the start mark, `complaint` is what was written on standard error.

    `status` is the exit status, negative for a signal. Where `started` is false, the sandbox itself failed.
    """

    started: bool
    ending: Ending
    status: int
    output: bytes = b""
    complaint: str = ""
    out_of_memory: bool = False
    """The kernel has killed a process of it because all of them together held too much."""


def watch(
    command: Sequence[str],
    *,
    job: bytes,
    limits: Limits,
    pass_fds: Sequence[int] = (),
    overfull: Callable[[], bool] | None = None,
) -> Contained:
    """Run `command`, with `job` as its standard input and an empty environment, until it ends or meets a limit.

    `overfull` is asked at every look whether too much was written to files.
    """
    stdin = _sealed(job)
    try:
        process = subprocess.Popen(
            command, env={}, cwd="/", stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            pass_fds=pass_fds, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Contained(False, "exit", 127, complaint=str(error))
    finally:
        os.close(stdin)
    assert process.stdout is not None and process.stderr is not None
    try:
        return _watch(process, limits, overfull)
    finally:
        _end(process)
        process.stdout.close()
        process.stderr.close()


def _sealed(job: bytes) -> int:
    """A file in memory that nobody can change any more, whoever gets hold of its descriptor."""
    descriptor = os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(job)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _watch(process: subprocess.Popen[bytes], limits: Limits, overfull: Callable[[], bool] | None) -> Contained:
    assert process.stdout is not None and process.stderr is not None
    output, complaint = bytearray(), bytearray()
    ending: Ending = "exit"
    deadline, started = time.monotonic() + limits.wall_seconds, False
    observer = _Observer(process.pid, limits)
    with selectors.DefaultSelector() as selector, _exit_of(process) as exited:
        selector.register(process.stdout.fileno(), selectors.EVENT_READ, output)
        selector.register(process.stderr.fileno(), selectors.EVENT_READ, complaint)
        selector.register(exited, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, min(deadline, observer.next_look) - time.monotonic()))
            if not ready:
                running = exited in selector.get_map()
                if running and started and time.monotonic() >= observer.next_look:
                    observer.look()
                    if overfull is not None and overfull():
                        ending = "disk"
                        break
                if time.monotonic() >= deadline:
                    if running:
                        ending = "idle" if observer.blames() else "wall"
                    break
            for key, _ in ready:
                if key.data is None:  # the leader has ended: what it said is in the pipes, strays get no time to add
                    _kill_group(process)
                    deadline = time.monotonic() + _AFTER_EXIT_SECONDS
                    selector.unregister(exited)
                elif chunk := os.read(key.fd, 65536):
                    key.data.extend(chunk)
                else:
                    selector.unregister(key.fd)
            started = started or output.startswith(STARTED)
            if len(output) > limits.output_bytes + len(STARTED) or len(complaint) > _COMPLAINT_BYTES:
                ending = "output"
                break
    _end(process)
    status = -signal.SIGKILL if process.returncode is None else process.returncode
    said = complaint[:_COMPLAINT_BYTES].decode("utf-8", "replace").strip()
    return Contained(started, ending, status, bytes(output[len(STARTED) :]), said)


@contextlib.contextmanager
def _exit_of(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """A descriptor that becomes readable when the process has ended."""
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """To be called before the leader is waited for: until then its number belongs to no other group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        _kill_group(process)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: Python reaps it later
            process.wait(_AFTER_KILL_SECONDS)


class _Observer:
    """Looks now and then at a process and all that descend from it."""

    def __init__(self, leader: int, limits: Limits) -> None:
        self._leader, self._cpu_seconds = leader, limits.cpu_seconds
        self._pause = max(_SHORTEST_LOOK_SECONDS, min(_LOOK_SECONDS, limits.wall_seconds / _LOOKS))
        self._looks = self._awake = 0
        self._overspent = False
        self._set_next()

    def _set_next(self) -> None:
        self.next_look = time.monotonic() + self._pause * random.uniform(0.5, 1.5)

    def look(self) -> None:
        family = _family(self._leader)
        self._looks += 1
        self._awake += any(member.state in "RD" for member in family)  # computes or queues, or waits for a disk
        self._overspent = sum(member.seconds for member in family) >= self._cpu_seconds
        self._set_next()

    def blames(self) -> bool:
        """Whether the processes slept at most of the looks, or had more processor time than is theirs."""
        asleep = self._looks >= _ENOUGH_LOOKS and self._awake < _AWAKE_SHARE * self._looks
        return self._overspent or asleep


class _Member(NamedTuple):
    state: str
    parent: int
    seconds: float
    """Processor time of the process and of its children that were waited for."""


def _family(leader: int) -> list[_Member]:
    ticks = os.sysconf("SC_CLK_TCK")
    everyone: dict[int, _Member] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                stat = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
                everyone[int(entry.name)] = _Member(stat[0], int(stat[1]), sum(map(int, stat[11:15])) / ticks)
    family = [leader]
    for number in family:
        family += [child for child, member in everyone.items() if member.parent == number]
    return [everyone[number] for number in family if number in everyone]
