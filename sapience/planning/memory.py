"""What training keeps in memory on one device: weights, gradients, optimizer state, and activations for the backward pass.

Counted from the recipe, of the fullest of the processes that its layout shares a training among. Activations are the tensors
that autograd holds at the end of the forward pass of one micro-batch, of a pipeline's rank those of all chunks that are under
way; what a single op takes for a moment, the allocator's rounding, and the masks of rows whose documents do not see one
another are not covered, nor what a pipeline keeps for gradients of weights it has put off. Spread experts are taken to get
equally many tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sapience.parallel.division import divide, stages_of
from sapience.parallel.mesh import Mesh, Plan, cut
from sapience.parallel.schedule import Schedule, kept_at_most
from sapience.parallel.schedules import SCHEDULES, one_forward_one_backward
from sapience.planning.parameters import Parameters, layer_parameters, prediction_parameters
from sapience.recipe.compute import RecomputedPart
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.recipe.parallel import LayoutSection

ITEM = 4
"""Bytes of a float32."""
CUDA_BYTES = 1 << 30
"""What CUDA, its libraries and kernels take of a GPU before any tensor."""
SPARE = 1.1
"""For what an op takes for a moment and what the allocator cannot use."""
MATRICES = ("attention", "dense_feed_forward", "routed_experts", "shared_experts")
"""Parts of layers that `parallel.shard_weights` cuts."""
HIDDEN = (*MATRICES, "joins")
"""Parts whose matrices Muon moves; embedding, head, gates and norms stay with AdamW."""
GATHERED = 2
"""Layers that are whole at once where weights are cut: the one that is computed and the one that is gathered ahead."""


def training_memory(
    plan: Plan, optimizer: OptimizerSection, length: int, recompute: Collection[RecomputedPart] = ()
) -> dict[str, int]:
    """Bytes on the fullest process: weights, copies (of weights, in bf16 and FP8), gradients, optimizer, activations, total.

    `length`: tokens of a row; `recompute`: parts of layers that are not kept. With `plan.precision` auto or fp32 all is in
    float32. Raises Impossible where the plan is.
    """
    mesh, layout, model = plan.mesh, plan.parallel, plan.model
    rows = cut(plan.full_step, plan.micro_rows, mesh, layout)
    schedule = one_forward_one_backward(1, 1)
    if mesh.pipeline > 1:
        schedule = SCHEDULES[layout.schedule](mesh.pipeline, len(rows) // mesh.readers)
    division = divide(model, schedule.stages, layout.stage_layers if mesh.pipeline > 1 else None)
    narrow = plan.precision in ("bf16", "fp8")
    tokens = -(-max(rows) * length // mesh.context)
    others = tokens * (mesh.context - 1)
    chunks = [
        stage_activation_bytes(model, stage, division, tokens, mesh.expert > 1, others, recompute) // (1 + narrow)
        for stage in range(len(division))
    ]
    ranks = []
    for place, kept in enumerate(kept_at_most(schedule, chunks)):
        weights, copied, state = _weights(model, schedule, place, division, mesh, layout, optimizer)
        memory = {"weights": ITEM * weights, "copies": 2 * copied * narrow, "gradients": ITEM * weights}
        memory |= {"optimizer": state, "activations": kept}
        if layout.shard_weights and mesh.data > 1:
            layers = [_cut(layer_parameters(model, layer < model.first_k_dense_replace), mesh) for layer in division[0]]
            memory["activations"] += GATHERED * max(layers) * (2 if narrow else ITEM)
        ranks.append(memory | {"total": sum(memory.values())})
    return max(ranks, key=lambda memory: memory["total"])


def one_process(
    model: ModelSection, optimizer: OptimizerSection, precision: str, rows: int, length: int
) -> dict[str, int]:
    """`training_memory` of a process that trains alone, with so many rows at once."""
    return training_memory(Plan(1, LayoutSection(), model, [rows], rows, precision=precision), optimizer, length)


def gpu_bytes(memory: dict[str, int]) -> int:
    """About what such a training takes of a GPU: 1.0 to 1.3 times what four trainings of 0.09 to 2 billion weights took
    (docs/performance.md, docs/lab-log.md)."""
    return CUDA_BYTES + int(SPARE * memory["total"])


def _weights(
    model: ModelSection,
    schedule: Schedule,
    place: int,
    division: Sequence[range],
    mesh: Mesh,
    layout: LayoutSection,
    optimizer: OptimizerSection,
) -> tuple[int, int, int]:
    """Weights that a rank at this place of a pipeline has, those that have a copy, and bytes of its optimizer's state."""
    alike: dict[int, Parameters] = {}
    weights = copied = state = 0
    for part, size in _held(model, stages_of(schedule, place), division):
        spread = mesh.expert if part == "routed_experts" else 1
        here, holders = size // spread, mesh.data // spread
        if layout.shard_weights and part in MATRICES:
            here = -(-here // holders)
            state += here * _state(part, optimizer)
        else:
            copied += here
            alike.setdefault(holders, []).append((part, here))
        weights += here
    for holders, parameters in alike.items():
        state += _fullest_owner(parameters, holders if layout.shard_optimizer else 1, optimizer)
    return weights, copied, state


def _held(model: ModelSection, stages: Sequence[int], division: Sequence[range]) -> Parameters:
    """What a rank with these stages has of the model, as `parallel.stages.keep` leaves it."""
    held = [
        parameter
        for stage in stages
        for layer in division[stage]
        for parameter in layer_parameters(model, layer < model.first_k_dense_replace)
    ]
    table, last = model.vocab_size * model.hidden_size, len(division) - 1 in stages
    if 0 in stages or (last and (model.num_nextn_predict_layers or model.tie_word_embeddings)):
        held.append(("embedding", table))
    if last:
        held += [("norms", model.hidden_size)] + [("head", table)] * (not model.tie_word_embeddings)
        held += prediction_parameters(model) * model.num_nextn_predict_layers
    return held


def _state(part: str, optimizer: OptimizerSection) -> int:
    """Bytes of state for a weight: two moments under AdamW, one (in float32) of the hidden matrices under Muon."""
    if optimizer.name == "muon" and part in HIDDEN:
        return ITEM
    return 2 * (2 if optimizer.moments == "bf16" else ITEM)


def _fullest_owner(parameters: Parameters, owners: int, optimizer: OptimizerSection) -> int:
    """Bytes of state where each parameter has one owner: the largest first, each to whom has least."""
    weights, state = [0] * owners, [0] * owners
    for part, size in sorted(parameters, key=lambda parameter: -parameter[1]):
        owner = weights.index(min(weights))
        weights[owner] += size
        state[owner] += size * _state(part, optimizer)
    return max(state)


def _cut(parameters: Parameters, mesh: Mesh) -> int:
    """Weights of a layer that a rank gathers where they are cut."""
    return sum(
        size // (mesh.expert if part == "routed_experts" else 1) for part, size in parameters if part in MATRICES
    )


def activation_bytes(model: ModelSection, tokens: int, recompute: Collection[RecomputedPart] = ()) -> int:
    """What the backward pass of a micro-batch of so many tokens needs in float32, logits included (they are never whole)."""
    return stage_activation_bytes(model, 0, [range(model.num_hidden_layers)], tokens, recompute=recompute)


def stage_activation_bytes(
    model: ModelSection,
    stage: int,
    division: Sequence[range],
    tokens: int,
    spread: bool = False,
    others: int = 0,
    recompute: Collection[RecomputedPart] = (),
) -> int:
    """The same of one of a pipeline's stages, which have these layers.

    `spread`: experts are on several ranks, and tokens that have travelled to them are kept. `others`: tokens of the same rows
    that other ranks have; attention keeps their keys and values too.
    """
    width, depth = model.hidden_size, model.num_nextn_predict_layers
    layers, ends = division[stage], stage + 1 == len(division)
    dense = sum(layer < model.first_k_dense_replace for layer in layers)
    experts = len(layers) - dense + depth * ends
    attention = _attention(model, "attention_up" in recompute) + 2 * (_norm(width) + width)
    attention -= 2 * (width + 1) * ("norms" in recompute)
    expert_layer = attention + _experts(model) + spread * model.num_experts_per_tok * width
    floats = tokens * (dense * (attention + 2 * model.intermediate_size) + experts * expert_layer)
    floats += others * (dense + experts) * _keys_values(model, "attention_up" in recompute)
    if ends:
        norm = _norm(width)
        # A prediction module: two norms, whose outputs are joined, the join's input, a layer, a norm, the head's gradient.
        floats += tokens * (norm + width + depth * (2 * norm + 2 * width + norm + width))
        floats += (1 + depth) * model.vocab_size * width
    return ITEM * floats


def _norm(width: int) -> int:
    """Floats that a norm keeps of a token: its input, the same over its root mean square, and that root's inverse."""
    return 2 * width + 1


def _attention(model: ModelSection, recomputed: bool) -> int:
    """Of a token, behind the layer's norm: latents, queries, keys, values, output; all heads."""
    heads, rank = model.num_attention_heads, model.q_lora_rank
    output, queries = heads * (model.v_head_dim + 1), heads * model.qk_head_dim
    if recomputed:
        queries = queries if rank is None else rank
    elif rank is not None:
        queries += _norm(rank) + rank
    return queries + output + _keys_values(model, recomputed)


def _keys_values(model: ModelSection, recomputed: bool) -> int:
    """Of a token: latent, keys, and values with what keys are made of."""
    rank, rotary = model.kv_lora_rank, model.qk_rope_head_dim
    if recomputed:
        return rank + rotary
    unfolded = model.qk_head_dim + model.qk_nope_head_dim + model.v_head_dim
    return rotary + _norm(rank) + rank + model.num_attention_heads * unfolded


def _experts(model: ModelSection) -> int:
    """Of a token: the shared experts' gate and up, and what routing keeps: affinities, places, and of every chosen expert gate
    and up; the rest is made again."""
    chosen, inner = model.num_experts_per_tok, model.moe_intermediate_size
    routing = model.n_routed_experts + 10 * chosen + 3
    return routing + 2 * inner * (chosen + model.n_shared_experts)
