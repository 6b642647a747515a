"""From one Hugging Face folder to another: other types, FP8 blocks, other shards; checked, and without the model in memory.

Goes tensor by tensor, and needs the memory of the largest one. Every tensor that `config.json` promises must be there in its
shape before anything is written. Interrupted, it goes on after the last whole shard. What came from FP8 and goes to FP8
keeps its bytes. The tokenizer's files and the like are copied as they are.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapience.model.config_json import CONFIG, config_json, is_quantized, load_config, read_json
from sapience.model.huggingface import check_copies, check_tensors, read_weight
from sapience.model.release_layout import SCALE, release_copies, release_shapes, stored_as
from sapience.model.shards import SHARD_BYTES, Piece, planned_shards, write_shards
from sapience.model.tensor_files import INDEX, TensorFolder
from sapience.ops.fp8_blocks import quantize_blocks
from sapience.recipe.errors import UserError
from sapience.run import ProgressFactory, write_atomically

COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
    "tokenizer.model", "tiktoken.model", "LICENSE", "LICENSE.txt", "NOTICE", "reward_head.safetensors",
)  # fmt: skip
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
    where `target` holds something else, or where the disk is too small.
    """
    config = load_config(source)
    quantized = is_quantized(source)
    fp8 = wanted.fp8 or (quantized and wanted.dtype is None)
    files = TensorFolder(source)
    shapes, copies = release_shapes(config), release_copies(config)
    check_tensors(files, {name: shape for name, shape in shapes.items() if name not in copies})
    check_copies(files, copies)
    notes = _left_out(files, shapes)
    pieces = [
        _piece(files, name, copies.get(name, name), shape, fp8, torch.bfloat16 if wanted.fp8 else wanted.dtype)
        for name, shape in shapes.items()
    ]
    shards = planned_shards(pieces, wanted.shard_bytes)
    size = sum(piece.bytes for piece in pieces)
    finished = _prepare(target, _signature(files, source, wanted), set(shards))
    _check_disk(target, size - sum(p.bytes for name in finished for p in shards[name]))
    with progress(f"writing {target.name} (MB)", size // MEGABYTE) as bar:
        write_shards(target, shards, finished, lambda written: bar.advance(written / MEGABYTE))
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if card is not None:
        write_atomically(target / CARD, card)
    elif (source / CARD).is_file():
        shutil.copyfile(source / CARD, target / CARD)
    raw = read_json(source / CONFIG)
    special = {key: raw[key] for key in SPECIAL if key in raw}
    dtype = torch.bfloat16 if fp8 else pieces[0].entries[0].dtype
    content = config_json(config, special, str(dtype).removeprefix("torch."), fp8)
    write_atomically(target / CONFIG, json.dumps(content, indent=1))
    (target / UNFINISHED).unlink(missing_ok=True)
    if not (target / TOKENIZER).is_file():
        notes.append(f"{source} has no {TOKENIZER}: put the model's own into {target} before you use it")
    return Converted(sum(len(piece.entries) for piece in pieces), size, len(shards), notes)


def imported(
    source: Path, target: Path, dtype: torch.dtype | None, shard_bytes: int, progress: ProgressFactory
) -> Converted:
    """`convert_folder` for training: FP8 blocks multiplied out, in bfloat16 unless told otherwise."""
    if dtype is None and is_quantized(source):
        dtype = torch.bfloat16
    return convert_folder(source, target, Conversion(dtype, shard_bytes=shard_bytes), progress)


def _piece(
    files: TensorFolder, name: str, place: str, shape: tuple[int, ...], fp8: bool, dtype: torch.dtype | None
) -> Piece:
    """One tensor of the new folder, made from the tensor at `place` of the old one."""
    stored = files.dtype(place)
    plain = dtype or (torch.bfloat16 if stored == torch.float8_e4m3fn else stored)
    entries = stored_as(name, shape, plain, fp8)
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


def _left_out(files: TensorFolder, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Notes of tensors that are none of the model's. Raises UserError for those of a layer that config.json lacks."""
    scales = {name + SCALE for name in shapes}
    extra = [name for name in files.place if name not in shapes and name not in scales and "rotary_emb" not in name]
    layers = [name for name in extra if name.startswith("model.layers.")]
    if layers:
        raise UserError(
            f"{files.folder} holds {len(layers)} tensors of layers that its config.json does not describe ({layers[0]}, …): "
            "for prediction modules set num_nextn_predict_layers to their number, otherwise nothing here reads them"
        )
    return [f"left out {len(extra)} tensors that are not the model's ({extra[0]}, …)"] if extra else []


def _signature(files: TensorFolder, source: Path, wanted: Conversion) -> str:
    """Hash of the source's files, by size and time of change, and of what is wanted."""
    paths = sorted({*files.place.values(), source / CONFIG})
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((str(source.resolve()), seen, wanted)).encode()).hexdigest()


def _prepare(target: Path, signature: str, shards: set[str]) -> set[str]:
    """Make the folder, or find the whole shards that the same conversion has left there."""
    mark = target / UNFINISHED
    if mark.is_file():
        before: Any = None
        with suppress(ValueError):
            before = json.loads(mark.read_text(encoding="utf-8"))
        if before == {"signature": signature}:
            return {path.name for path in target.glob("model*.safetensors")} & shards
        for path in _model_files(target):
            path.unlink()
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already: name a folder that does not exist, or an empty one")
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, json.dumps({"signature": signature}))
    return set()


def _model_files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("model*.safetensors")
    yield from folder.glob(".*.partial")
    yield from (path for path in (folder / INDEX,) if path.exists())


def _check_disk(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target).free
    if needed > free:
        raise UserError(
            f"{target} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB is free there: free some space, choose another "
            "folder, or a smaller type (--dtype bfloat16, --fp8)"
        )
