"""What the tensors of a model are called in DeepSeek-V3's release, in which shape, and which of them are FP8 there.

Prediction modules are layers L, L+1, … with copies of embedding and head. Our fused and stacked matrices are cut into
the release's; every name stands for a view of our tensor, so that reading and writing go tensor by tensor. A model built
on the meta device tells names and shapes without memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sapience.model.tensor_files import Entry
from sapience.model.transformer import PredictionModule, Transformer
from sapience.ops.fp8_blocks import scale_shape
from sapience.recipe.model import ModelSection

SCALE = "_scale_inv"
"""Follows the name of a matrix in FP8 blocks; despite the name, element · scale is the weight."""
BIAS = "mlp.gate.e_score_correction_bias"
_ATTENTION = {
    "q_proj": "q_proj", "q_down": "q_a_proj", "q_norm": "q_a_layernorm", "q_up": "q_b_proj",
    "kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_up": "kv_b_proj", "out": "o_proj",
}  # fmt: skip


def release_views(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Name in the release, and the view of our tensor that it is; without the copies."""
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    if not model.config.tie_word_embeddings:
        yield "lm_head.weight", model.head.weight
    for index, layer in enumerate(model.layers):
        yield from _block(f"model.layers.{index}.", layer, model.config)
    for index, module in enumerate(model.predictions, start=model.config.num_hidden_layers):
        assert isinstance(module, PredictionModule)
        prefix = f"model.layers.{index}."
        yield prefix + "enorm.weight", module.embedding_norm.weight
        yield prefix + "hnorm.weight", module.hidden_norm.weight
        yield prefix + "eh_proj.weight", module.join.weight
        yield prefix + "shared_head.norm.weight", module.norm.weight
        yield from _block(prefix, module.block, model.config)


def release_copies(config: ModelSection) -> dict[str, str]:
    """Name of every copy that a prediction layer carries -> name of the main model's tensor that it repeats."""
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    copies = {}
    for index in range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers):
        copies[f"model.layers.{index}.embed_tokens.weight"] = "model.embed_tokens.weight"
        copies[f"model.layers.{index}.shared_head.head.weight"] = head
    return copies


def release_shapes(config: ModelSection) -> dict[str, tuple[int, ...]]:
    """Every name with its shape, copies included, in the order of the layers."""
    with torch.device("meta"):
        model = Transformer(config)
    shapes = {name: tuple(view.shape) for name, view in release_views(model)}
    return shapes | {name: shapes[repeated] for name, repeated in release_copies(config).items()}


def is_block_matrix(name: str) -> bool:
    """Whether the release keeps a tensor in FP8 blocks: the projections of attention, feed-forward layers and experts; not
    embedding, head, gate, norms and the joining matrix of a prediction module (report, section 3.3)."""
    projection = name.endswith(("_proj.weight", "kv_a_proj_with_mqa.weight"))
    return projection and not name.endswith("eh_proj.weight")


def release_entries(config: ModelSection, dtype: torch.dtype, fp8: bool) -> Iterator[Entry]:
    """What the files of a release hold: all in `dtype` but the gates' biases, which are float32; with `fp8`, block
    matrices in FP8, each followed by its scales."""
    for name, shape in release_shapes(config).items():
        yield from stored_as(name, shape, dtype, fp8)


def stored_as(name: str, shape: tuple[int, ...], dtype: torch.dtype, fp8: bool) -> tuple[Entry, ...]:
    """The entries that one tensor becomes."""
    if name.endswith(BIAS):
        return (Entry(name, shape, torch.float32),)
    if fp8 and is_block_matrix(name):
        scale = Entry(name + SCALE, scale_shape(*shape), torch.float32)
        return Entry(name, shape, torch.float8_e4m3fn), scale
    return (Entry(name, shape, dtype),)


def _block(prefix: str, block: Any, config: ModelSection) -> Iterator[tuple[str, Tensor]]:
    yield prefix + "input_layernorm.weight", block.attention_norm.weight
    yield prefix + "post_attention_layernorm.weight", block.feed_forward_norm.weight
    attention = block.attention
    for ours, theirs in _ATTENTION.items():
        if hasattr(attention, ours):
            yield f"{prefix}self_attn.{theirs}.weight", getattr(attention, ours).weight
    if not hasattr(block, "gate"):
        yield from _swiglu(prefix + "mlp.", block.feed_forward.gate_up.weight, block.feed_forward.down.weight)
        return
    yield prefix + "mlp.gate.weight", block.gate.weight_ED
    if config.balanced_by_bias:
        yield prefix + BIAS, block.gate.bias_E
    for expert in range(config.n_routed_experts):
        yield from _swiglu(
            f"{prefix}mlp.experts.{expert}.", block.experts.gate_up_EFD[expert], block.experts.down_EDF[expert]
        )
    if block.shared is not None:
        yield from _swiglu(prefix + "mlp.shared_experts.", block.shared.gate_up.weight, block.shared.down.weight)


def _swiglu(prefix: str, gate_up: Tensor, down: Tensor) -> Iterator[tuple[str, Tensor]]:
    gate, up = gate_up.chunk(2, dim=0)
    yield prefix + "gate_proj.weight", gate
    yield prefix + "up_proj.weight", up
    yield prefix + "down_proj.weight", down
