"""Worker processes for algebra with a deadline that holds: whatever an answer says, it costs its budget and no more.

A worker that spends its processor time is ended by the kernel (see `math_worker`), and the comparison is a `timeout`, on
a fast machine as on a crowded one. The wall clock is only a guard, many times as long: when it runs out, or a worker is
lost otherwise, a new worker gets the comparison once more with twice the patience, and after that it is `lost`, which says
nothing about the answer. Where no worker has ever answered, all would be lost, and that is an error. Every process is the
leader of a group of its own, is killed with it, and always waited for.

Workers start when the first comparison needs one. Not covered: other machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import sapience
from sapience.recipe.errors import UserError

OutcomeKind = Literal["same", "different", "timeout", "unreadable", "lost"]
_START_SECONDS = 120.0
_WALL_FACTOR, _WALL_EXTRA_SECONDS = 10.0, 20.0
_END_SECONDS = 10.0
_MOST_REPLY_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Outcome:
    """`timeout`: the comparison needs too much processor time or memory. `unreadable`: no algebra can be done with the right
    answer. `lost`: the machine failed, and nothing is known."""

    kind: OutcomeKind
    detail: str = ""


class MathPool:
    """Compares answers in `workers` processes at a time; a context manager, to be called from any thread.

    `deadline` is processor time of one comparison, in seconds.
    """

    def __init__(self, workers: int = 2, deadline: float = 5.0) -> None:
        if workers < 1 or not deadline > 0:
            raise ValueError(f"a pool needs a worker and a deadline above 0, not {workers} and {deadline}")
        self.deadline = deadline
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(_Worker())
        self._workers = workers
        self._works = False

    def equal_many(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One outcome for each (right answer, given answer), in order. Raises UserError where no worker can be had."""
        return list(self._threads.map(self._compare, pairs))

    def close(self) -> None:
        """End all workers, after what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._workers:
            self._idle.get().end()
            self._workers -= 1

    def __enter__(self) -> MathPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compare(self, pair: tuple[str, str]) -> Outcome:
        worker = self._idle.get()
        try:
            patience = self.deadline * _WALL_FACTOR + _WALL_EXTRA_SECONDS
            outcome = worker.compare(pair, self.deadline, patience)
            if outcome.kind == "lost":
                outcome = worker.compare(pair, self.deadline, 2 * patience)
            elif outcome.kind == "timeout" and outcome.detail == _MEMORY:
                outcome = worker.compare(pair, self.deadline, patience)  # what earlier comparisons left behind is gone
            self._works = self._works or outcome.kind != "lost"
            if not self._works:
                raise UserError(
                    f"mathematics cannot be judged here, no process for algebra answers ({outcome.detail}): "
                    "see that the machine has memory left, and install sapience again"
                )
            return outcome
        finally:
            self._idle.put(worker)


_MEMORY = "needs too much memory"


class _Worker:
    """One process at a time, started when it is needed; used by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, pair: tuple[str, str], seconds: float, patience: float) -> Outcome:
        """Whatever comes of it, the worker is idle afterwards, or gone."""
        try:
            self._start()
            reply = self._asked({"gold": pair[0], "answer": pair[1], "seconds": seconds}, patience)
        except (OSError, ValueError) as error:
            self.end()
            return Outcome("lost", f"the process for algebra failed: {error}")
        if reply is None:
            status = self.end()
            if status == -signal.SIGPROF:
                return Outcome("timeout", f"needs more than {seconds:g} s")
            return Outcome("lost", f"the process for algebra was lost with status {status}")
        if "memory" in reply:
            self.end()
            return Outcome("timeout", _MEMORY)
        if "unreadable" in reply:
            return Outcome("unreadable", str(reply["unreadable"]))
        return Outcome("same" if reply["same"] is True else "different", str(reply.get("detail", "")))

    def _start(self) -> None:
        if self._process is not None:
            return
        # packages are found where they are found here, wherever a caller has them from
        places = os.pathsep.join(dict.fromkeys([str(Path(sapience.__file__).parent.parent), *filter(None, sys.path)]))
        # one order of sets and one thread in every worker, so that a comparison costs the same everywhere
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": places}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sapience.rewards.math_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env=environment, start_new_session=True,
        )  # fmt: skip
        reply = self._reply(_START_SECONDS)
        if reply != {"ready": True}:
            said = (reply or {}).get("failed")
            raise OSError(f"it did not start, {said or f'status {self.end()}'}")

    def _asked(self, job: dict[str, Any], patience: float) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdin is not None
        # both answers are short (math_text.LONGEST), so the pipe takes the line at once
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return self._reply(patience)

    def _reply(self, patience: float) -> dict[str, Any] | None:
        """The next line, or None where the process ended or the wall clock ran out."""
        assert self._process is not None and self._process.stdout is not None
        said, until = bytearray(), time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n") and len(said) <= _MOST_REPLY_BYTES:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return None
                chunk = os.read(self._process.stdout.fileno(), 4096)
                if not chunk:
                    self._wait(_END_SECONDS)
                    return None
                said += chunk
        reply = json.loads(said)
        if not isinstance(reply, dict):
            raise ValueError("it said something that is no reply")
        return reply

    def _wait(self, seconds: float) -> None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self) -> int | None:
        """Kill the group, wait for its leader and tell the status it ended with."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:  # until it was waited for, its number belongs to no other group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return process.returncode
