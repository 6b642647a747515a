"""Processes that form a gloo group and stay, since starting them costs seconds: one pool for each number of ranks."""

import functools
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT = 120
"""Seconds after which a rank that says nothing is given up."""
PATIENCE = 5
"""Seconds after another one has failed."""


def _serve(rank: int, size: int, store: str, line: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT)
    )
    while (asked := line.recv()) is not None:
        function, arguments = asked
        try:
            line.send((True, function(*arguments)))
        except Exception:
            line.send((False, traceback.format_exc()))
    dist.destroy_process_group()


class Pool:
    """`size` ranks."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            [
                "sapience.parallel.pipeline",
                "sapience.training.loop",
                "tiny_models",
                "torch.distributed.fsdp",
                "torch._dynamo",
            ]
        )
        store = str(Path(tempfile.mkdtemp()) / "store")
        self._lines, self._ranks = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, store, theirs), daemon=True)
            process.start()
            self._lines.append(ours)
            self._ranks.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """function(*arguments) on every rank, all at once: what each returned. Raises RuntimeError with a rank's traceback."""
        for line in self._lines:
            line.send((function, arguments))
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < len(self._lines):
            broken = any(not well for well, _ in answers.values())
            waiting = [line for rank, line in enumerate(self._lines) if rank not in answers]
            ready = wait(waiting, timeout=PATIENCE if broken else LIMIT)
            for line in ready:
                answers[self._lines.index(line)] = line.recv()  # type: ignore[arg-type, union-attr]
            if not ready:  # the others wait for the one that is broken, or all for each other
                self.close()
                pool.cache_clear()
                break
        failed = [f"rank {rank}:\n{answer}" for rank, (well, answer) in sorted(answers.items()) if not well]
        silent = [f"rank {rank} says nothing" for rank in range(len(self._lines)) if rank not in answers]
        if failed or silent:
            raise RuntimeError("\n".join(failed + silent))
        return [answer for _, (_, answer) in sorted(answers.items())]

    def close(self) -> None:
        """End all of them."""
        for process in self._ranks:
            process.kill()


@functools.cache
def pool(size: int) -> Pool:
    """The pool of so many ranks; they end with the tests."""
    return Pool(size)
