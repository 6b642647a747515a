"""Token shards: all documents of a domain as one flat array of ids on disk, with the places where documents begin."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenShard:
    """An opened shard; tokens stay on disk until they are read."""

    tokens: NDArray[Any]
    """uint16 or uint32, memory-mapped."""
    offsets: NDArray[np.int64]
    """documents + 1 places; document i is tokens[offsets[i]:offsets[i+1]]."""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @staticmethod
    def open(path: Path) -> "TokenShard":
        """Open `PATH.bin` with its `PATH.npz`, as `write_shard` made them."""
        with np.load(path.with_name(path.name + ".npz")) as index:
            offsets, width = index["offsets"], int(index["width"])
        kind = np.uint16 if width == 2 else np.uint32
        file = path.with_name(path.name + ".bin")
        empty = file.stat().st_size == 0
        tokens = np.zeros(0, kind) if empty else np.memmap(file, dtype=kind, mode="r")
        return TokenShard(tokens, offsets)


def write_shard(path: Path, documents: Iterable[Sequence[int] | NDArray[Any]], vocab_size: int) -> int:
    """Write documents' ids to `PATH.bin` and their offsets to `PATH.npz` (last, atomically); returns the tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    offsets = [0]
    final = path.with_name(path.name + ".bin")
    temporary = path.with_name(f".{path.name}.bin.partial")
    with open(temporary, "wb") as file:
        for document in documents:
            ids = np.asarray(document, dtype=kind)
            file.write(ids.tobytes())
            offsets.append(offsets[-1] + len(ids))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    index = path.with_name(f".{path.name}.npz.partial")
    with open(index, "wb") as file:
        np.savez(file, offsets=np.array(offsets, dtype=np.int64), width=np.array(np.dtype(kind).itemsize))
    index.replace(path.with_name(path.name + ".npz"))
    return offsets[-1]
