"""The tensors of a checkpoint that several ranks write, each a part, by torch.distributed.checkpoint; any layout reads them.

Tensors are called `weights/NAME` and `optimizer/MOMENT/NAME`. What several ranks hold alike is written by one of them. A part
of the experts, or of a weight that no rank has whole, is some rows of a tensor; who reads asks for the rows that it needs,
whoever wrote them.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sapience.parallel.spread import Rows
from sapience.training.checkpoint_folder import INDEX_OF_PARTS

WEIGHTS, OPTIMIZER = "weights/", "optimizer/"


@dataclass(frozen=True)
class Part:
    """Some rows of a tensor, or all of it."""

    tensor: Tensor
    rows: Rows | None = None

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """Where in the whole it belongs."""
        offsets = [0] * self.tensor.ndim
        if self.rows is not None:
            offsets[0] = self.rows.first
        return ChunkStorageMetadata(torch.Size(offsets), self.tensor.size())

    @property
    def whole(self) -> torch.Size:
        """The whole's size."""
        size = self.tensor.size()
        return size if self.rows is None else torch.Size((self.rows.whole, *size[1:]))


def write_parts(
    folder: Path, weights: Mapping[str, Part], optimizer: Mapping[str, Part], group: dist.ProcessGroup
) -> list[Path]:
    """Write what the ranks of a group have between them; the files that are this rank's to answer for. All ranks call it.

    Raises OSError where a file cannot be written.
    """
    parts = {WEIGHTS + key: value for key, value in weights.items()}
    parts |= {OPTIMIZER + key: value for key, value in optimizer.items()}
    parts = {key: part for key, part in parts.items() if part.rows is None or part.tensor.numel()}
    tensors = {key: part.tensor for key, part in parts.items()}
    try:
        save(tensors, storage_writer=FileSystemWriter(folder), planner=_Writes(parts), process_group=group)
    except CheckpointException as error:
        reasons = [failure for failure, _ in error.failures.values()]
        raise next((each for each in reasons if isinstance(each, OSError)), OSError(str(reasons[0]))) from error
    rank = dist.get_rank(group)
    mine = sorted(folder.glob(f"__{rank}_*"))
    return [*mine, folder / INDEX_OF_PARTS] if rank == 0 else mine


def read_parts(
    candidate: Path, wanted: Callable[[str], Rows | bool] = lambda key: True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and the optimizer's state by `moment/name`.

    `wanted`: of a key all (True), some rows, or nothing (False). No rank waits for another.
    """
    reader = FileSystemReader(candidate)
    parts: dict[str, Part] = {}
    for key, told in reader.read_metadata().state_dict_metadata.items():
        whose = isinstance(told, TensorStorageMetadata) and wanted(key.partition("/")[2])
        if not whose or not isinstance(told, TensorStorageMetadata):
            continue
        size, rows = list(told.size), whose if isinstance(whose, Rows) and len(told.size) else None
        if rows is not None:
            size[0] = rows.end - rows.first
        parts[key] = Part(torch.empty(size, dtype=told.properties.dtype), rows)
    asked = {key: part.tensor for key, part in parts.items() if part.tensor.numel()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it works alone, which is what is wanted
        load(asked, storage_reader=reader, planner=_Reads(parts), no_dist=True)
    weights, optimizer = (
        {key.removeprefix(kind): part.tensor for key, part in parts.items() if key.startswith(kind)}
        for kind in (WEIGHTS, OPTIMIZER)
    )
    return weights, optimizer


class _Writes(DefaultSavePlanner):
    """Knows which rows a tensor is."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.parts = parts

    def create_local_plan(self) -> SavePlan:
        items = []
        for key, part in self.parts.items():
            properties = TensorProperties.create_from_tensor(part.tensor)
            data = TensorWriteData(part.chunk, properties, part.whole)
            items.append(WriteItem(MetadataIndex(key, part.chunk.offsets), WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.parts[index.fqn].tensor


class _Reads(DefaultLoadPlanner):
    """The same for a reader."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.parts = parts

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items = []
        for key in self.state_dict:
            told = self.metadata.state_dict_metadata[key]
            assert isinstance(told, TensorStorageMetadata)
            items += create_read_items_for_chunk_list(key, told, [self.parts[key].chunk])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.parts[index.fqn].tensor
