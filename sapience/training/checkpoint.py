"""Checkpoints: a moment of training on disk (`training/checkpoint_folder.py` says how it stays whole).

One process writes two files, `weights.safetensors` and `optimizer.safetensors`. Several that share a training write each a
part (`training/sharded_checkpoint.py`); one process reads that too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sapience.model.tensor_files import write_tensors
from sapience.training.checkpoint_folder import (
    begin_checkpoint,
    checkpoint_folders,
    checkpoint_record,
    files_agree,
    finish_checkpoint,
    has_parts,
    sha256,
)

TENSOR_FILES = ("weights.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of training."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    """Counters of the loop, the hash of the token stream, what the stage adds."""


def save_checkpoint(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write a checkpoint and drop all but the newest `keep`."""
    building = begin_checkpoint(folder, step)
    for name, tensors in zip(TENSOR_FILES, (weights, optimizer), strict=True):
        write_tensors(building / name, _apart(tensors))
    finish_checkpoint(folder, step, state, {name: sha256(building / name) for name in TENSOR_FILES}, keep)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None; all of it, whoever wrote it."""
    for candidate in reversed(checkpoint_folders(folder)):
        record = checkpoint_record(candidate)
        if record is not None and files_agree(candidate, record["sha256"].items()):
            try:
                weights, optimizer = read_tensors(candidate)
            except (OSError, ValueError, SafetensorError):
                continue
            return Checkpoint(record["step"], weights, optimizer, record["state"])
    return None


def read_tensors(candidate: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All weights and all of the optimizer's state of a checkpoint that is whole."""
    if has_parts(candidate):
        from sapience.training.checkpoint_parts import read_parts  # takes most of a second to import

        return read_parts(candidate)
    weights, optimizer = (load_file(candidate / name) for name in TENSOR_FILES)
    return weights, optimizer


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each with memory of its own: a tied head is stored twice, so that either name can be read."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        alone = value.detach().contiguous()
        apart[key] = alone.clone() if alone.data_ptr() in seen else alone
        seen.add(alone.data_ptr())
    return apart
