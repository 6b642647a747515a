"""Which layers each stage of a pipeline has, and which stages a rank. No torch here."""

from collections.abc import Sequence
from itertools import accumulate

from sapience.parallel.schedule import Impossible, Schedule
from sapience.recipe.model import ModelSection


def divide(config: ModelSection, stages: int, given: Sequence[int] | None = None) -> tuple[range, ...]:
    """The layers of each stage: as many as `given`, or so that the stage with most arithmetic has as little as can be.

    Raises Impossible where a stage would have no layer or `given` is not about this model.
    """
    layers = config.num_hidden_layers
    if given is not None and (len(given) != stages or sum(given) != layers or min(given) < 1):
        raise Impossible(f"layers {list(given)} are not {layers} layers in {stages} stages of at least one")
    if stages > layers:
        raise Impossible(f"{stages} stages need at least as many layers, and the model has {layers}")
    sizes = _balanced(_costs(config), _tail_cost(config), stages) if given is None else list(given)
    ends = list(accumulate(sizes))
    return tuple(range(end - size, end) for size, end in zip(sizes, ends, strict=True))


def _costs(config: ModelSection) -> list[int]:
    """Weights that a token meets in each layer."""
    queries = config.num_attention_heads * config.qk_head_dim
    rank = config.q_lora_rank
    query = config.hidden_size * queries if rank is None else rank * (config.hidden_size + queries)
    latent = config.hidden_size * (config.kv_lora_rank + config.qk_rope_head_dim)
    unfolded = config.kv_lora_rank * config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)
    attention = query + latent + unfolded + config.num_attention_heads * config.v_head_dim * config.hidden_size
    dense = 3 * config.hidden_size * config.intermediate_size
    active = config.num_experts_per_tok + config.n_shared_experts
    routed = 3 * config.hidden_size * config.moe_intermediate_size * active
    return [
        attention + (dense if layer < config.first_k_dense_replace else routed)
        for layer in range(config.num_hidden_layers)
    ]


def _tail_cost(config: ModelSection) -> int:
    """The same behind the last layer."""
    head, depths = config.vocab_size * config.hidden_size, config.num_nextn_predict_layers
    return head + depths * (head + 2 * config.hidden_size**2 + _costs(config)[-1])


def _balanced(costs: Sequence[int], tail: int, stages: int) -> list[int]:
    """Sizes of neighbouring groups, the largest sum of which is the least; `tail` belongs to the last."""
    before = [0, *accumulate(costs)]
    count = len(costs)
    # best[i]: the least possible maximum for the first i layers in so many stages, and how many the last of these has.
    best: list[list[tuple[int, int]]] = [[(0, 0)] + [(before[-1] + tail + 1, 0)] * count]
    for stage in range(1, stages + 1):
        row = [(before[-1] + tail + 1, 0)] * (count + 1)
        for end in range(stage, count + 1):
            extra = tail if stage == stages else 0
            row[end] = min(
                (max(best[-1][end - size][0], before[end] - before[end - size] + extra), size)
                for size in range(1, end - stage + 2)
            )
        best.append(row)
    sizes, end = [], count
    for stage in range(stages, 0, -1):
        sizes.append(best[stage][end][1])
        end -= sizes[-1]
    return sizes[::-1]


def stages_of(schedule: Schedule, rank: int) -> tuple[int, ...]:
    """The stages that a rank has, of any copy."""
    return tuple(sorted({stage for copy in schedule.copies for stage, place in enumerate(copy) if place == rank}))
