"""Writing a model's tensors as shards with an index, one tensor in memory at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sapience.model.tensor_files import INDEX, Entry, stream_tensors
from sapience.run import write_atomically

SHARD_BYTES = 5 * 10**9
"""Largest shard unless told otherwise; a single larger tensor has one to itself. The release's are 4.3 GB."""


@dataclass(frozen=True)
class Piece:
    """What belongs together in a file, such as a matrix and its scales, and how to get it."""

    entries: tuple[Entry, ...]
    make: Callable[[], Sequence[Tensor]]
    """Its tensors, in the order of the entries."""

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return sum(entry.bytes for entry in self.entries)


def planned_shards(pieces: Iterable[Piece], shard_bytes: int) -> dict[str, list[Piece]]:
    """File name -> what it holds, in order; a single file is `model.safetensors`."""
    shards: list[list[Piece]] = []
    room = -1
    for piece in pieces:
        if piece.bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(piece)
        room -= piece.bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{n:05}-of-{len(shards):05}.safetensors": shard for n, shard in enumerate(shards, start=1)}


def write_shards(
    folder: Path,
    shards: dict[str, list[Piece]],
    finished: set[str] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the files of `planned_shards` and their index; those named in `finished` are there already.

    A file has its name only when it is whole. `advance` hears of every piece's bytes. Model files of another plan are
    removed. Raises OSError where the disk is full.
    """
    for name, pieces in shards.items():
        if name in (finished or ()):
            advance(sum(piece.bytes for piece in pieces))
            continue
        temporary = folder / f".{name}.partial"
        entries = [entry for piece in pieces for entry in piece.entries]
        try:
            stream_tensors(temporary, entries, _tensors(pieces, advance))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(folder / name)
    for path in {*folder.glob("model*.safetensors"), folder / INDEX} - {folder / name for name in shards}:
        path.unlink(missing_ok=True)
    if len(shards) > 1:
        places = {entry.name: name for name, pieces in shards.items() for piece in pieces for entry in piece.entries}
        size = sum(piece.bytes for pieces in shards.values() for piece in pieces)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        write_atomically(folder / INDEX, json.dumps(index, indent=1))


def _tensors(pieces: Sequence[Piece], advance: Callable[[int], None]) -> Iterator[Tensor]:
    for piece in pieces:
        yield from piece.make()
        advance(piece.bytes)
