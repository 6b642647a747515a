"""Counting a model's parameters and the work of one training token from its recipe section alone, without building it.

The work is what a dense reading of the network costs: two operations per weight that a token meets, forward, and
twice that backward, plus the products of queries with keys and of weights with values over half the context (a causal
mask). Norms, softmax, routing and the optimizer are left out: they are small in operations, and where they are not
small in time (tiny models), the measured rate that the work is divided by contains them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sapience.recipe.model import ModelSection

CACHE_ITEM = 2
"""Bytes of a number in the cache: bfloat16."""


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of weights. Shared embedding and head count once, with the main model."""

    main: int
    """All weights of the main model."""
    active: int
    """Weights of the main model that one token meets: the chosen experts only."""
    mtp: int
    """All weights of the prediction modules."""
    mtp_active: int
    """Those that one token meets."""

    @property
    def total(self) -> int:
        return self.main + self.mtp


Parameters = list[tuple[str, int]]
"""Part of the model and number of weights of each parameter."""


def layer_parameters(model: ModelSection, dense: bool) -> Parameters:
    """Of a layer."""
    heads, rank, width = model.num_attention_heads, model.kv_lora_rank, model.hidden_size
    queries = heads * model.qk_head_dim
    matrices = [width * (rank + model.qk_rope_head_dim), rank * heads * (model.qk_nope_head_dim + model.v_head_dim)]
    norms = [width, width, rank]
    if model.q_lora_rank is None:
        matrices.append(width * queries)
    else:
        matrices += [width * model.q_lora_rank, model.q_lora_rank * queries]
        norms.append(model.q_lora_rank)
    matrices.append(heads * model.v_head_dim * width)
    made = [*(("attention", size) for size in matrices), *(("norms", size) for size in norms)]

    def feed_forward(part: str, inner: int) -> Parameters:
        return [(part, 2 * inner * width), (part, inner * width)] if inner else []

    if dense:
        return made + feed_forward("dense_feed_forward", model.intermediate_size)
    inner = model.moe_intermediate_size
    made.append(("gates", model.n_routed_experts * width))
    made += feed_forward("routed_experts", model.n_routed_experts * inner)
    return made + feed_forward("shared_experts", model.n_shared_experts * inner)


def prediction_parameters(model: ModelSection) -> Parameters:
    """Of one prediction module (report, section 2.2); embedding and head are the main model's."""
    width = model.hidden_size
    return [*layer_parameters(model, dense=False), ("joins", 2 * width * width), *([("norms", width)] * 3)]


def _sum(*counted: tuple[int, Parameters]) -> dict[str, int]:
    total: dict[str, int] = {}
    for times, parameters in counted:
        for part, count in parameters:
            total[part] = total.get(part, 0) + times * count
    return {part: count for part, count in total.items() if count}


def main_parts(model: ModelSection) -> dict[str, int]:
    """Weights of the main model by part (report, section 2.1)."""
    table = model.vocab_size * model.hidden_size
    tables = [("embedding", table)] if model.tie_word_embeddings else [("embedding", table), ("head", table)]
    dense = model.first_k_dense_replace
    return _sum(
        (1, tables),
        (dense, layer_parameters(model, dense=True)),
        (model.num_hidden_layers - dense, layer_parameters(model, dense=False)),
        (1, [("norms", model.hidden_size)]),
    )


def prediction_parts(model: ModelSection) -> dict[str, int]:
    """Weights of the prediction modules by part."""
    return _sum((model.num_nextn_predict_layers, prediction_parameters(model)))


def _active(model: ModelSection, parts: dict[str, int]) -> int:
    """Weights that one token meets: of the routed experts the chosen ones."""
    idle = parts.get("routed_experts", 0) // model.n_routed_experts
    return sum(parts.values()) - (model.n_routed_experts - model.num_experts_per_tok) * idle


def count_parameters(model: ModelSection) -> ParameterCount:
    """Weights of the main model and of the prediction modules. The gates' biases, which no gradient moves, are none."""
    main, prediction = main_parts(model), prediction_parts(model)
    return ParameterCount(
        sum(main.values()), _active(model, main), sum(prediction.values()), _active(model, prediction)
    )


def lookups(model: ModelSection) -> int:
    """Weights of the embedding that take part in no product: none of a tied one, which is the head too."""
    return 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size


def forward_operations(model: ModelSection, length: int) -> tuple[float, float]:
    """Floating-point operations of one token in a context of `length` tokens, forward: main model, prediction modules.

    The embedding is a lookup and costs nothing; the head is used once by the main model and once per prediction depth.
    """
    count = count_parameters(model)
    table = model.vocab_size * model.hidden_size
    attention = length / 2 * model.num_attention_heads * (model.qk_head_dim + model.v_head_dim)
    depth = model.num_nextn_predict_layers
    main = 2.0 * (count.active - lookups(model) + model.num_hidden_layers * attention)
    return main, 2.0 * (count.mtp_active + depth * (table + attention))


def training_operations(model: ModelSection, length: int) -> float:
    """Floating-point operations, forward and backward, of one token in a context of `length` tokens."""
    return 3 * sum(forward_operations(model, length))


def cache_bytes(model: ModelSection) -> int:
    """Bytes that a decoder keeps of one token: latent and rotary key of every layer (70,272 at V3's sizes)."""
    return CACHE_ITEM * model.num_hidden_layers * (model.kv_lora_rank + model.qk_rope_head_dim)
