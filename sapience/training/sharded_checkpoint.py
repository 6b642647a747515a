"""Checkpoints of a training that several processes share: each writes its part, beside the steps that follow.

A checkpoint begins with a copy in memory; a thread of every process writes it, by messages of a group of their own, while
training goes on. Nobody begins another one, or ends, before the last is whole. What one process has written is read too; one
process, or any other number in any layout, reads these.
"""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import torch.distributed as dist
from torch import Tensor

from sapience.parallel.spread import Rows, Spread
from sapience.training.checkpoint import Checkpoint, read_tensors
from sapience.training.checkpoint_folder import (
    begin_checkpoint,
    building_folder,
    checkpoint_folders,
    checkpoint_record,
    files_agree,
    finish_checkpoint,
    has_parts,
    sha256,
)
from sapience.training.checkpoint_parts import Part, read_parts, write_parts


@dataclass
class ShardedCheckpoints:
    """Those of one training. All ranks make theirs together, and call every method together."""

    folder: Path
    keep: int
    spread: Spread
    _thread: Thread | None = None
    _failed: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        ranks = list(range(dist.get_world_size()))
        group = dist.new_group(ranks, backend="gloo")
        assert group is not None
        self._group = group

    def save(
        self, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Begin to write this moment, after the one before is written. Raises OSError where that one could not be."""
        self.wait()
        owned = {key: value for key, value in optimizer.items() if self.spread.owns(key)}
        copies = [{key: self._copied(key, value) for key, value in each.items()} for each in (weights, owned)]
        # A thread that does not keep the process alive: when one rank fails the others must not wait for it.
        self._thread = Thread(target=self._write, args=(step, *copies, dict(state)), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until what was begun is written. Raises OSError where it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed:
            raise self._failed.pop()

    def latest(self) -> Checkpoint | None:
        """This rank's part of the newest whole checkpoint, or None. Raises UserError where ranks see different files."""
        candidates = checkpoint_folders(self.folder)
        self.spread.agree_on("checkpoints", [candidate.name for candidate in candidates])
        for candidate in reversed(candidates):
            record = checkpoint_record(candidate)
            if not self._all_agree(candidate, record) or record is None:
                continue
            if has_parts(candidate):
                weights, optimizer = read_parts(candidate, self._wanted)
            else:
                whole, moments = read_tensors(candidate)
                weights, optimizer = self.spread.own_weights(whole), self.spread.own_optimizer(moments)
            return Checkpoint(record["step"], weights, optimizer, record["state"])
        return None

    def _wanted(self, key: str) -> Rows | bool:
        return self.spread.needs(key) and (self.spread.rows(key) or True)

    def _copied(self, key: str, value: Tensor) -> Part:
        copy = value.detach().to("cpu", copy=True)
        return Part(copy, self.spread.rows(key) if copy.ndim else None)

    def _all_agree(self, candidate: Path, record: Mapping[str, Any] | None) -> bool:
        """Whether the files are what their record says; each rank looks at some."""
        rank, size = dist.get_rank(self._group), dist.get_world_size(self._group)
        mine = record is not None and files_agree(candidate, sorted(record["sha256"].items())[rank::size])
        found: list[Any] = [None] * size
        dist.all_gather_object(found, mine, group=self._group)
        return all(found)

    def _write(
        self, step: int, weights: Mapping[str, Part], optimizer: Mapping[str, Part], state: Mapping[str, Any]
    ) -> None:
        try:
            if self.spread.writes:
                begin_checkpoint(self.folder, step)
            dist.barrier(group=self._group)
            files = write_parts(building_folder(self.folder, step), weights, optimizer, self._group)
            sums = {path.name: sha256(path) for path in files}
            everyones: list[Any] | None = [None] * dist.get_world_size(self._group) if self.spread.writes else None
            dist.gather_object(sums, everyones, dst=0, group=self._group)
            if everyones is not None:
                finish_checkpoint(self.folder, step, state, dict(ChainMap(*everyones)), self.keep)
            dist.barrier(group=self._group)
        except BaseException as error:
            self._failed.append(error)
