"""Checkpoints: complete or absent, verified when read, the last few kept.

    checkpoints/step-0000200/weights.safetensors, optimizer.safetensors, state.json

`state.json` is written last and holds the sha256 of the two tensor files; the folder is built under another name and
renamed. A checkpoint that is torn (killed while writing, disk full, bits flipped) is passed over and the one before it
is used.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sapience.model.tensor_files import write_tensors
from sapience.run import write_atomically

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
    final = folder / f"step-{step:07d}"
    building = folder / f".building-{step:07d}"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for name, tensors in zip(TENSOR_FILES, (weights, optimizer), strict=True):
        write_tensors(building / name, _apart(tensors))
    record = {"step": step, "state": dict(state), "sha256": {name: _sha256(building / name) for name in TENSOR_FILES}}
    write_atomically(building / "state.json", json.dumps(record))
    shutil.rmtree(final, ignore_errors=True)
    building.replace(final)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None."""
    for candidate in reversed(_folders(folder)):
        try:
            record = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
            if any(_sha256(candidate / name) != record["sha256"][name] for name in TENSOR_FILES):
                continue
            weights, optimizer = (load_file(candidate / name) for name in TENSOR_FILES)
            return Checkpoint(record["step"], weights, optimizer, record["state"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each with memory of its own: a tied head is stored twice, so that either name can be read."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        alone = value.detach().contiguous()
        apart[key] = alone.clone() if alone.data_ptr() in seen else alone
        seen.add(alone.data_ptr())
    return apart


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
