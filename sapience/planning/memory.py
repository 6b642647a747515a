"""What training keeps in memory on one device: weights, gradients, optimizer state, and activations for the backward pass.

Counted from the recipe in float32; `gpu_bytes` counts what a GPU computes in. Activations are the tensors that autograd
holds at the end of the forward pass of one micro-batch; what a single op takes for a moment, the allocator's rounding, and
the masks of rows whose documents do not see one another are not covered, nor what a recipe has recomputed.
"""

from __future__ import annotations

from typing import Literal

from sapience.planning.parameters import count_parameters, main_parts, prediction_parts
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection

ITEM = 4
"""Bytes of a float32."""
CUDA_BYTES = 1 << 30
"""What CUDA, its libraries and kernels take of a GPU before any tensor."""
SPARE = 1.1
"""For what an op takes for a moment and what the allocator cannot use."""
HIDDEN = ("attention", "dense_feed_forward", "routed_experts", "shared_experts", "joins")
"""Parts whose matrices Muon moves; embedding, head, gates and norms stay with AdamW."""


def optimizer_bytes(model: ModelSection, optimizer: OptimizerSection) -> int:
    """State of the optimizer: two moments of every weight under AdamW, one (in float32) of the hidden matrices under Muon."""
    weights, hidden = count_parameters(model).total, 0
    if optimizer.name == "muon":
        parts = (main_parts(model), prediction_parts(model))
        hidden = sum(counted.get(name, 0) for counted in parts for name in HIDDEN)
    moment = 2 if optimizer.moments == "bf16" else ITEM
    return 2 * moment * (weights - hidden) + ITEM * hidden


def gpu_bytes(
    model: ModelSection, optimizer: OptimizerSection, precision: Literal["auto", "fp32", "bf16", "fp8"], tokens: int
) -> int:
    """About what a training with micro-batches of `tokens` tokens takes of a GPU's memory: 1.0 to 1.3 times what four
    trainings of 0.09 to 2 billion weights took (docs/performance.md, docs/lab-log.md).

    Weights and gradients are float32. In bf16 and FP8 their copies take two bytes more, and activations half.
    """
    narrow = precision != "fp32"
    state = (2 * ITEM + 2 * narrow) * count_parameters(model).total + optimizer_bytes(model, optimizer)
    return CUDA_BYTES + int(SPARE * (state + activation_bytes(model, tokens) / (1 + narrow)))


def activation_bytes(model: ModelSection, tokens: int) -> int:
    """What the backward pass of one micro-batch of `tokens` tokens needs, logits included (they are never whole)."""
    dense = model.first_k_dense_replace
    layers = model.num_hidden_layers - dense
    depth = model.num_nextn_predict_layers
    width = model.hidden_size
    norm = _norm(width)
    per_token = dense * _dense_layer(model) + layers * _expert_layer(model) + norm + width
    # A prediction module: two norms, whose outputs are joined, the join's input, a layer, a norm, the head's gradient.
    per_token += depth * (2 * norm + 2 * width + _expert_layer(model) + norm + width)
    head = (1 + depth) * model.vocab_size * width
    return ITEM * (tokens * per_token + head)


def _norm(width: int) -> int:
    """Floats that a norm keeps of a token: its input, the same over its root mean square, and that root's inverse."""
    return 2 * width + 1


def _attention(model: ModelSection) -> int:
    """Of a token, behind the layer's norm: latents, queries, keys, keys and values as unfolded, output; all heads."""
    heads, rank = model.num_attention_heads, model.kv_lora_rank
    query = 0 if model.q_lora_rank is None else _norm(model.q_lora_rank) + model.q_lora_rank
    latent = model.qk_rope_head_dim + _norm(rank) + rank
    unfolded = heads * (2 * model.qk_head_dim + model.qk_nope_head_dim + 2 * model.v_head_dim + 1)
    return query + latent + unfolded


def _dense_layer(model: ModelSection) -> int:
    return 2 * (_norm(model.hidden_size) + model.hidden_size) + _attention(model) + 2 * model.intermediate_size


def _expert_layer(model: ModelSection) -> int:
    """As a dense layer with the shared experts' gate and up, and what routing keeps: affinities, places, and of every chosen
    expert gate and up; the rest is made again."""
    chosen, width, inner = model.num_experts_per_tok, model.hidden_size, model.moe_intermediate_size
    routing = model.n_routed_experts + 10 * chosen + 3
    routed = chosen * 2 * inner
    shared = 2 * model.n_shared_experts * inner
    return 2 * (_norm(width) + width) + _attention(model) + routing + routed + shared
