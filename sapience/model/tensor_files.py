"""Reading and writing safetensors: one file, or a folder whose tensors lie in several shards.

Writing tells a full disk as what it is, and a file that has its name is on the disk. What is read or made tensor by tensor
needs the memory of the largest one: of a file that is read some megabytes are mapped, of one that is written nothing is
kept. Names what is missing or damaged.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sapience.recipe.errors import UserError

INDEX = "model.safetensors.index.json"
_MAPPED = 64 << 20
"""Bytes read from a file before it is opened anew: pages of a mapped file count as the process's memory."""
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = list(_NAMES)
"""As tensors stand in a file."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write and flush a safetensors file. Raises OSError where the disk is full or the file cannot be written.

    safetensors tells an operating system's error in words of its own, with the number in brackets.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None
    _settle(path)


def stream_tensors(path: Path, entries: Sequence[Entry], tensors: Iterable[Tensor]) -> None:
    """Write and flush a safetensors file whose tensors come one after another, in the order of `entries`.

    The library takes only all tensors of a file at once; this writes the bytes that it would write. In the file wide types
    stand before narrow ones, so that every tensor is aligned. Raises OSError where the disk is full or the file cannot be
    written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in sorted(entries, key=lambda entry: (_ORDER.index(entry.dtype), entry.name)):
        offsets = [end, end + entry.bytes]
        header[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        end += entry.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    try:
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for entry, tensor in zip(entries, tensors, strict=True):
                assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry
                file.seek(8 + len(text) + header[entry.name]["data_offsets"][0])
                file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    _settle(path)


def _settle(path: Path) -> None:
    """As readable as other files (safetensors leaves it to its owner alone), and on the disk."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


class TensorFolder:
    """The tensors of a model folder by name. Raises UserError where a file is missing or damaged, naming it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place: dict[str, Path] = {}
        self._open: tuple[Path, Any] | None = None
        self._mapped = 0
        files = self._files()
        for path in files:
            for name in _opened(path).keys():  # noqa: SIM118
                if name in self.place:
                    raise UserError(
                        f"{folder} holds the tensor {name} twice, in {self.place[name].name} and {path.name}"
                    )
                self.place[name] = path

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._handle(name).get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor. Raises UserError for one that is no weight's."""
        stored = self._handle(name).get_slice(name).get_dtype()
        if stored not in _DTYPES:
            known = "float32, bfloat16, float16 and FP8 blocks"
            raise UserError(
                f"{self.folder}: tensor {name} is {stored}; sapience reads {known}: convert the weights first"
            )
        return _DTYPES[stored]

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        tensor: Tensor = self._handle(name).get_tensor(name)
        self._mapped += tensor.nbytes
        return tensor

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same, some rows at a time: embeddings are a checkpoint's largest tensors."""
        if self.shape(one) != self.shape(other) or self.dtype(one) != self.dtype(other):
            return False
        parts = [_opened(self.place[name]).get_slice(name) for name in (one, other)]
        row = max(1, torch.Size(self.shape(one)[1:]).numel() * self.dtype(one).itemsize)
        step = max(1, _MAPPED // 8 // row)
        return all(torch.equal(*(part[i : i + step] for part in parts)) for i in range(0, self.shape(one)[0], step))

    def _files(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.is_file():
            files = sorted(self.folder.glob("model*.safetensors"))
            if not files:
                raise UserError(f"{self.folder} has a config.json but no model*.safetensors: the weights are missing")
            return files
        try:
            promised: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = sorted({Path(file).name for file in promised.values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged ({error!r}): copy it again") from None
        for shard in shards:
            if not (self.folder / shard).is_file():
                names = [name for name, file in promised.items() if file == shard]
                raise UserError(
                    f"{self.folder} lacks the shard {shard} with {len(names)} tensors ({names[0]}, …): copy it again"
                )
        return [self.folder / shard for shard in shards]

    def _handle(self, name: str) -> Any:
        path = self.place[name]
        if self._open is None or self._open[0] != path or self._mapped > _MAPPED:
            self._open = None
            self._open, self._mapped = (path, _opened(path)), 0
        return self._open[1]


def _opened(path: Path) -> Any:
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: check that it is there and its rights")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
