"""Counting a model's parameters and the work of one training token from its recipe section alone, without building it.

The work is what a dense reading of the network costs: two operations per weight that a token meets, forward, and
twice that backward, plus the products of queries with keys and of weights with values over half the context (a causal
mask). Norms, softmax, routing and the optimizer are left out: they are small in operations, and where they are not
small in time (tiny models), the measured rate that the work is divided by contains them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sapience.recipe.model import ModelSection


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


def _attention(model: ModelSection) -> int:
    heads, rank, width = model.num_attention_heads, model.kv_lora_rank, model.hidden_size
    if model.q_lora_rank is None:
        query = width * heads * model.qk_head_dim
    else:
        query = model.q_lora_rank * (width + 1 + heads * model.qk_head_dim)
    latent = width * (rank + model.qk_rope_head_dim) + rank
    raised = rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
    return query + latent + raised + heads * model.v_head_dim * width


def _expert_layer(model: ModelSection, experts: int) -> int:
    """A layer of which `experts` routed experts are counted; the gate is always there whole."""
    width = model.hidden_size
    expert = 3 * width * model.moe_intermediate_size
    gate = model.n_routed_experts * width
    return _attention(model) + 2 * width + gate + (experts + model.n_shared_experts) * expert


def count_parameters(model: ModelSection) -> ParameterCount:
    """Weights of the main model and of the prediction modules (report, sections 2.1 and 2.2)."""
    width = model.hidden_size
    dense = _attention(model) + 2 * width + 3 * width * model.intermediate_size
    expert_layers = model.num_hidden_layers - model.first_k_dense_replace
    table = model.vocab_size * width
    tables = table if model.tie_word_embeddings else 2 * table

    def main(experts: int) -> int:
        layers = model.first_k_dense_replace * dense + expert_layers * _expert_layer(model, experts)
        return tables + layers + width

    def prediction(experts: int) -> int:
        return model.num_nextn_predict_layers * (_expert_layer(model, experts) + 2 * width * width + 3 * width)

    every, chosen = model.n_routed_experts, model.num_experts_per_tok
    return ParameterCount(main(every), main(chosen), prediction(every), prediction(chosen))


def training_operations(model: ModelSection, length: int) -> float:
    """Floating-point operations, forward and backward, of one token in a context of `length` tokens.

    The embedding is a lookup and costs nothing; the head is used once by the main model and once per prediction depth.
    """
    count = count_parameters(model)
    table = model.vocab_size * model.hidden_size
    lookups = 0 if model.tie_word_embeddings else table
    weights = count.active - lookups + count.mtp_active + model.num_nextn_predict_layers * table
    layers = model.num_hidden_layers + model.num_nextn_predict_layers
    attention = layers * length / 2 * model.num_attention_heads * (model.qk_head_dim + model.v_head_dim)
    return 6.0 * (weights + attention)
