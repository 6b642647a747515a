"""Hugging Face folders: a model in memory to `config.json` and safetensors in the layout of DeepSeek-V3's release, and back.

Reads one file or shards, weights in float32, bfloat16, float16 or the release's FP8 blocks, one tensor at a time. Folder to
folder, without a model in memory, is `conversion`'s.
"""

import json
import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sapience.model.config_json import CONFIG, config_json, load_config, quantization_of
from sapience.model.release_layout import SCALE, is_block_matrix, release_copies, release_views
from sapience.model.shards import SHARD_BYTES, Piece, planned_shards, write_shards
from sapience.model.tensor_files import Entry, TensorFolder
from sapience.model.transformer import Transformer
from sapience.ops.fp8_blocks import dequantize_blocks, scale_shape
from sapience.recipe.errors import UserError
from sapience.recipe.model import ModelSection
from sapience.run import write_atomically


def save_model(
    model: Transformer, folder: Path, bos_id: int, eos_id: int, pad_id: int, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the weights, generation_config.json and config.json (last, so that a torn folder is no model)."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        Piece((Entry(name, tuple(tensor.shape), tensor.dtype),), partial(tuple, [tensor]))
        for name, tensor in exported_tensors(model).items()
    ]
    write_shards(folder, planned_shards(pieces, shard_bytes))
    special = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    write_atomically(folder / "generation_config.json", json.dumps(special, indent=1))
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    write_atomically(folder / CONFIG, json.dumps(config_json(model.config, special, dtype), indent=1))


def exported_tensors(model: Transformer) -> dict[str, Tensor]:
    """Views of the model's tensors under their names in the release; prediction layers repeat embedding and head."""
    views = dict(release_views(model))
    return views | {name: views[repeated] for name, repeated in release_copies(model.config).items()}


def load_model(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """The model of a Hugging Face folder, in float32.

    Raises UserError that names the tensor where one is missing or has another shape, or the file where it is damaged.
    """
    config = load_config(folder)
    quantization_of(folder)
    files = TensorFolder(folder)
    with torch.device("meta"):
        model = Transformer(config)
    shapes = {name: tuple(view.shape) for name, view in release_views(model)}
    check_tensors(files, shapes, config)
    model.to_empty(device=device)
    if config.tie_word_embeddings:
        model.head.weight = model.embedding.weight
    with torch.no_grad():
        for block in model.gates():
            block.gate.bias_E.zero_()  # a softmax gate's is in no file
        for name, target in release_views(model):
            target.copy_(read_weight(files, name))
    check_copies(files, release_copies(config))
    return model


def check_tensors(files: TensorFolder, shapes: dict[str, tuple[int, ...]], config: ModelSection) -> None:
    """Raises UserError that names the first tensor that is missing, has another shape, or lacks its scales."""
    for name, shape in shapes.items():
        if name not in files.place:
            lacking = [other for other in shapes if other not in files.place]
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            lost = all(layer_of(other) >= config.num_hidden_layers for other in lacking)
            remedy = ": where prediction layers were lost, set num_nextn_predict_layers to 0 there" if lost else ""
            raise UserError(f"{files.folder} lacks the tensor {name}{more}, which its config.json promises{remedy}")
        _same_shape(files, name, shape)
        if files.dtype(name) == torch.float8_e4m3fn:
            scale = name + SCALE
            if not is_block_matrix(name) or scale not in files.place:
                raise UserError(
                    f"{files.folder}: tensor {name} is FP8 and has no scales {scale}: copy the folder again"
                )
            _same_shape(files, scale, scale_shape(*shape))


def layer_of(name: str) -> int:
    """The layer that a tensor belongs to; -1 for none."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def check_copies(files: TensorFolder, copies: dict[str, str]) -> None:
    """Raises UserError where a prediction layer's copy of embedding or head is none: ours share the main model's."""
    for name, repeated in copies.items():
        if name in files.place and not files.equal(name, repeated):
            raise UserError(
                f"{files.folder}: {name} differs from {repeated}: a prediction module with an embedding or head of its own "
                "is not DeepSeek-V3's; set num_nextn_predict_layers to 0 in config.json to leave it out"
            )


def read_weight(files: TensorFolder, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor with FP8 blocks multiplied out, in `dtype`; by default as it is stored, FP8 blocks in float32."""
    tensor = files.read(name)
    if tensor.dtype == torch.float8_e4m3fn:
        return dequantize_blocks(tensor, files.read(name + SCALE), dtype or torch.float32)
    return tensor if dtype is None else tensor.to(dtype)


def _same_shape(files: TensorFolder, name: str, shape: tuple[int, ...]) -> None:
    found = files.shape(name)
    if found != shape:
        raise UserError(f"{files.folder}: tensor {name} has shape {list(found)}, config.json wants {list(shape)}")
