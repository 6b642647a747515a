"""The tensors of a checkpoint that several ranks write, each a part, by torch.distributed.checkpoint; any layout reads them.

Tensors are called `weights/NAME` and `optimizer/MOMENT/NAME`. What several ranks hold alike is written by one of them. A part
of the experts is a slice of a tensor's first axis; who reads asks for the slices that it needs, whoever wrote them.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from sapience.training.checkpoint_folder import INDEX_OF_PARTS

WEIGHTS, OPTIMIZER = "weights/", "optimizer/"


def part_of_tensor(part: Tensor, mesh: DeviceMesh) -> DTensor:
    """This rank's slice of a tensor whose first axis is divided evenly among a group."""
    return DTensor.from_local(part, mesh, [Shard(0)], run_check=False)


def write_parts(
    folder: Path,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    group: dist.ProcessGroup,
) -> list[Path]:
    """Write what the ranks of a group have between them; the files that are this rank's to answer for. All ranks call it.

    Raises OSError where a file cannot be written.
    """
    tensors = {WEIGHTS + key: value for key, value in weights.items()}
    tensors |= {OPTIMIZER + key: value for key, value in optimizer.items()}
    try:
        save(tensors, storage_writer=FileSystemWriter(folder), process_group=group)
    except CheckpointException as error:
        reasons = [failure for failure, _ in error.failures.values()]
        raise next((each for each in reasons if isinstance(each, OSError)), OSError(str(reasons[0]))) from error
    rank = dist.get_rank(group)
    mine = sorted(folder.glob(f"__{rank}_*"))
    return [*mine, folder / INDEX_OF_PARTS] if rank == 0 else mine


def read_parts(
    candidate: Path, wanted: Callable[[str], DeviceMesh | bool] = lambda key: True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and the optimizer's state by `moment/name`.

    `wanted`: of a key all (True), this rank's slice where the first axis is divided (the mesh of those who share it), or
    nothing (False). No rank waits for another.
    """
    reader = FileSystemReader(candidate)
    asked: dict[str, Tensor] = {}
    for key, told in reader.read_metadata().state_dict_metadata.items():
        whose = isinstance(told, TensorStorageMetadata) and wanted(key.partition("/")[2])
        if not whose or not isinstance(told, TensorStorageMetadata):
            continue
        size, kind = list(told.size), told.properties.dtype
        if isinstance(whose, DeviceMesh) and size:
            size[0] //= whose.size()
            asked[key] = part_of_tensor(torch.empty(size, dtype=kind), whose)
        else:
            asked[key] = torch.empty(size, dtype=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it works alone, which is what is wanted
        load(asked, storage_reader=reader, no_dist=True)
    read = {key: value.to_local() if isinstance(value, DTensor) else value for key, value in asked.items()}
    weights, optimizer = (
        {key.removeprefix(kind): value for key, value in read.items() if key.startswith(kind)}
        for kind in (WEIGHTS, OPTIMIZER)
    )
    return weights, optimizer
