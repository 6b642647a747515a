"""From one Hugging Face folder to another: other types, FP8 blocks, other shards; checked, and without the model in memory.

Goes tensor by tensor, and needs the memory of the largest one. Every tensor that `config.json` promises must be there in its
shape before anything is written. Interrupted, it goes on after the last whole shard. What came from FP8 and goes to FP8
keeps its bytes. The tokenizer's files and the like are copied as they are.
"""

import errno
import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapience.model.config_json import CONFIG, QUANTIZATION, config_json, load_config, quantization_of, read_json
from sapience.model.huggingface import check_copies, check_tensors, layer_of, read_weight
from sapience.model.release_layout import SCALE, release_copies, release_shapes, stored_as
from sapience.model.shards import SHARD_BYTES, Piece, planned_shards, write_shards
from sapience.model.tensor_files import INDEX, TensorFolder
from sapience.ops.fp8_blocks import quantize_blocks
from sapience.recipe.errors import UserError
from sapience.recipe.model import ModelSection
from sapience.run import ProgressFactory, write_atomically

COPIED = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*",
    "generation_config.json", "tokenizer.model", "tiktoken.model", "tokenization_*.py", "LICENSE*", "NOTICE*",
    "reward_head.safetensors",
)  # fmt: skip
"""Patterns of files that go along as they are."""
CARD, TOKENIZER = "README.md", "tokenizer.json"
UNFINISHED = ".unfinished.json"
"""In a folder that is being written: what it is made from and how, so that only the same conversion goes on in it."""
MEGABYTE = 10**6
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Conversion:
    """What is wanted of the new folder."""

    dtype: torch.dtype | None = None
    """None keeps every tensor as it is stored. The gates' biases are float32 always."""
    fp8: bool = False
    """Projections in FP8 blocks with scales, the rest in bfloat16, as the release has it."""
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UserError(f"a file of {self.shard_bytes} bytes holds nothing: give 1 or more")


@dataclass(frozen=True)
class Converted:
    """What was done."""

    tensors: int
    bytes: int
    files: int
    notes: list[str]
    """What a reader should know: tensors and files that were left out."""


def convert_folder(
    source: Path, target: Path, wanted: Conversion, progress: ProgressFactory, card: str | None = None
) -> Converted:
    """Write `source`'s model to `target`; `card` becomes its README.md, else the source's is copied.

    Raises UserError where the source is incomplete or damaged, where it holds weights that config.json does not describe,
    where `target` holds something else or cannot be written, or where the disk is too small.
    """
    try:
        return _converted(source, target, wanted, progress, card)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{error.filename or target}: {error.strerror or error}") from None


def _converted(
    source: Path, target: Path, wanted: Conversion, progress: ProgressFactory, card: str | None
) -> Converted:
    config = load_config(source)
    files = TensorFolder(source)
    shapes, copies = release_shapes(config), release_copies(config)
    check_tensors(files, {name: shape for name, shape in shapes.items() if name not in copies}, config)
    check_copies(files, copies)
    companions = _companions(source, card is None)
    notes = [*_left_out(files, shapes, config.num_hidden_layers, source), *_files_left_out(source, files, companions)]
    pieces = [_piece(files, name, copies.get(name, name), shape, wanted) for name, shape in shapes.items()]
    shards = planned_shards(pieces, wanted.shard_bytes)
    size = sum(piece.bytes for piece in pieces)
    finished = _prepare(source, target, _signature(files, source, wanted), set(shards))
    _check_disk(target, size - sum(p.bytes for name in finished for p in shards[name]))
    with progress(f"writing {target.name} (MB)", size // MEGABYTE) as bar:
        write_shards(target, shards, finished, lambda written: bar.advance(written / MEGABYTE))
    for path in companions:
        shutil.copyfile(path, target / path.name)
    if card is not None:
        write_atomically(target / CARD, card)
    write_atomically(target / CONFIG, json.dumps(_new_config(source, config, wanted, pieces), indent=1))
    (target / UNFINISHED).unlink(missing_ok=True)
    if not (target / TOKENIZER).is_file():
        notes.append(f"{source} has no {TOKENIZER}: put the model's own into {target} before you use it")
    return Converted(sum(len(piece.entries) for piece in pieces), size, len(shards), notes)


def _companions(source: Path, with_card: bool) -> list[Path]:
    """Files to copy; raises OSError for one that cannot be read, before anything is written."""
    patterns = (*COPIED, CARD) if with_card else COPIED
    found = sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    for path in found:
        path.open("rb").close()
    return found


def _files_left_out(source: Path, files: TensorFolder, companions: list[Path]) -> list[str]:
    known = {*companions, *files.place.values(), source / CONFIG, source / INDEX, source / CARD, source / UNFINISHED}
    others = sorted(path.name for path in source.iterdir() if path not in known and not path.name.startswith("."))
    return [f"left out {', '.join(others)}"] if others else []


def _new_config(source: Path, config: ModelSection, wanted: Conversion, pieces: list[Piece]) -> dict[str, Any]:
    raw = read_json(source / CONFIG)
    special = {key: raw[key] for key in SPECIAL if key in raw}
    quantized = any(len(piece.entries) == 2 for piece in pieces)
    kept = quantization_of(source)  # names its scales' format, and what is not quantized
    quantization = (QUANTIZATION if wanted.fp8 or kept is None else kept) if quantized else None
    dtype = torch.bfloat16 if quantized else pieces[0].entries[0].dtype
    return config_json(config, special, str(dtype).removeprefix("torch."), quantization)


def imported(
    source: Path, target: Path, dtype: torch.dtype | None, shard_bytes: int, progress: ProgressFactory
) -> Converted:
    """`convert_folder` for training: FP8 blocks multiplied out, in bfloat16 unless told otherwise."""
    if dtype is None and quantization_of(source):
        dtype = torch.bfloat16
    return convert_folder(source, target, Conversion(dtype, shard_bytes=shard_bytes), progress)


def _piece(files: TensorFolder, name: str, place: str, shape: tuple[int, ...], wanted: Conversion) -> Piece:
    """One tensor of the new folder, made from the tensor at `place` of the old one."""
    stored = files.dtype(place)
    in_blocks = wanted.fp8 or (wanted.dtype is None and stored == torch.float8_e4m3fn)
    dtype = torch.bfloat16 if wanted.fp8 else wanted.dtype or stored
    entries = stored_as(name, shape, dtype, in_blocks)
    if len(entries) == 2:
        return Piece(entries, partial(_blocks, files, place, stored))
    return Piece(entries, lambda: (read_weight(files, place, entries[0].dtype),))


def _blocks(files: TensorFolder, name: str, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    if stored == torch.float8_e4m3fn:
        return files.read(name), files.read(name + SCALE).to(torch.float32)
    try:
        return quantize_blocks(files.read(name))
    except ValueError as error:
        raise UserError(f"{files.folder}: tensor {name} cannot become FP8: {error}") from None


def _left_out(files: TensorFolder, shapes: dict[str, tuple[int, ...]], layers: int, source: Path) -> list[str]:
    """Notes of tensors that are none of the model's. Raises UserError for those of a layer that config.json forgets."""
    scales = {name + SCALE for name in shapes}
    extra = [name for name in files.place if name not in shapes and name not in scales and "rotary_emb" not in name]
    of_layers = [name for name in extra if layer_of(name) >= 0]
    said = read_json(source / CONFIG).get("num_nextn_predict_layers") is not None
    if of_layers and not (said and all(layer_of(name) >= layers for name in of_layers)):
        raise UserError(
            f"{files.folder} holds {len(of_layers)} tensors of layers that its config.json does not describe "
            f"({of_layers[0]}, …): correct num_hidden_layers, or give the number of prediction layers as "
            "num_nextn_predict_layers (0 leaves them out)"
        )
    return [f"left out {len(extra)} tensors that config.json does not count ({extra[0]}, …)"] if extra else []


def _signature(files: TensorFolder, source: Path, wanted: Conversion) -> str:
    """Hash of the source's files, by size and time of change, and of what is wanted."""
    paths = sorted({*files.place.values(), source / CONFIG})
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((str(source.resolve()), seen, wanted)).encode()).hexdigest()


def _prepare(source: Path, target: Path, signature: str, shards: set[str]) -> set[str]:
    """Make the folder, or find the whole shards that the same conversion has left there."""
    if target.resolve() == source.resolve():
        raise UserError(f"{target} is the folder to be read: name another one to write to")
    mark = target / UNFINISHED
    if mark.is_file():
        before: Any = None
        with suppress(ValueError):
            before = json.loads(mark.read_text(encoding="utf-8"))
        if before == {"signature": signature}:
            return {path.name for path in target.glob("model*.safetensors")} & shards
        for path in _model_files(target):
            path.unlink(missing_ok=True)
    elif target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} is there already: name a folder that does not exist, or an empty one")
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, json.dumps({"signature": signature}))
    return set()


def _model_files(folder: Path) -> list[Path]:
    """What an earlier conversion left; config.json first, without which a folder is no model."""
    return [folder / CONFIG, folder / INDEX, *folder.glob("model*.safetensors"), *folder.glob(".*.partial")]


def _check_disk(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target).free
    if needed > free:
        raise UserError(
            f"{target} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free there: free some space, choose another "
            "folder, or a smaller type (--dtype bfloat16, --fp8)"
        )
