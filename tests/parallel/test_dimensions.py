"""What ranks do in each dimension: totals by hand, who waits for whom, and what a dimension is good for."""

import inspect
from collections.abc import Callable
from fractions import Fraction
from itertools import groupby
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from trained_steps import Layout

from sapience.model.batch import Microbatch
from sapience.parallel.context import ContextGroup
from sapience.parallel.dimensions import (
    attention_share,
    context_parallel,
    contiguous,
    data_parallel,
    expert_parallel,
    overlapped_pair,
    shard_weights,
    zero_1,
)
from sapience.parallel.executor import PlainLoop
from sapience.parallel.lanes import LaneTimeline, timed
from sapience.parallel.mesh import zig_zag
from sapience.parallel.spread import spread
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet

TIME = st.integers(0, 9)
COUNTS = {"ranks": st.integers(2, 5), "microbatches": st.integers(1, 9), "blocks": st.integers(1, 5),
          "layers": st.integers(1, 4)}  # fmt: skip


def drawn(build: Callable[..., Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a dimension, whole numbers of time."""
    return st.fixed_dictionaries({name: COUNTS.get(name, TIME) for name in inspect.signature(build).parameters})


def order(timeline: LaneTimeline, rank: int = 0, lane: str = "network") -> list[str]:
    return [task.label for task, _, _ in timeline.of(rank, lane)]  # type: ignore[arg-type]


def begins(timeline: LaneTimeline, lane: str = "network") -> list[float]:
    return [begin for _, begin, _ in timeline.of(0, lane)]  # type: ignore[arg-type]


def test_data_parallel_by_hand() -> None:
    """Two micro-batches a rank of 1 + 2, the all-reduce both ways of 3, the norm, and all of the optimizer."""
    timeline = timed(data_parallel(2, 4, 1, 2, 3, 0.5, 2))
    assert timeline.end == 2 * 3 + 2 * 3 + 0.5 + 2
    assert order(timeline, 1, "arithmetic") == ["F 1", "B 1", "F 3", "B 3", "AdamW"]
    assert order(timeline) == ["all-reduce", "norm"] and begins(timeline) == [6, 12]
    uneven = timed(data_parallel(2, 3, 1, 2, 3, 0.5, 2))
    assert order(uneven, 1, "arithmetic") == ["F 1", "B 1", "AdamW"] and uneven.end == timeline.end


def test_zero_1_by_hand() -> None:
    """Gradients to one owner after the other, nobody moves before all have theirs, and weights from each."""
    timeline = timed(zero_1(2, 4, 1, 2, 3, 0.5, 2))
    assert order(timeline) == ["reduce to 0", "reduce to 1", "norm", "broadcast from 0", "broadcast from 1"]
    assert begins(timeline) == [6, 7.5, 9, 10.5, 12] and timeline.end == 13.5


@given(drawn(zero_1))
def test_owners_move_a_share_and_as_much_travels(given: dict[str, Any]) -> None:
    plain, owned = timed(data_parallel(**given)), timed(zero_1(**given))
    saved = given["optimizer"] - given["optimizer"] / given["ranks"]
    assert plain.end - owned.end == pytest.approx(saved)
    for rank in range(given["ranks"]):
        assert plain.busy(rank, "network") == pytest.approx(owned.busy(rank, "network"))
        (adam,) = [task for task, _, _ in owned.of(rank, "arithmetic") if task.label == "AdamW"]
        assert adam.time == given["optimizer"] / given["ranks"]


def test_sharded_weights_by_hand() -> None:
    """Of the gathers the first of each pass is waited for, and the last scatter; all else is behind arithmetic."""
    timeline = timed(shard_weights(2, 3, 2, 4, 1, 1, 0.5, 2))
    gathered = ["gather 0", "gather 1", "gather 2", "gather 2", "gather 1"]
    assert order(timeline) == [*gathered, "scatter 2", "gather 0", "scatter 1", "scatter 0", "norm"]
    assert begins(timeline) == [0, 1, 3, 7, 8, 12, 13, 16, 20, 21]
    assert timeline.end == 1 + 3 * 2 + 1 + 3 * 4 + 1 + 0.5 + 1
    assert timeline.hidden_share == pytest.approx((9 - 3) / 9.5)


def _step(sharded: bool) -> list[str]:
    """What a rank does in a step of the runtime, in the simulator's words."""
    events: list[str] = []
    config = tiny_config(num_hidden_layers=2)
    batches = [random_batch(config, 2, 17, seed=number) for number in range(4)]
    model, objective = tiny_model(config), NextTokens(0.3, 1e-2)
    layout = Layout(data=2, sharded=sharded)
    made = spread(model, objective, layout.mesh, layout.section, len(batches))
    optimizer = OptimizerSet(model, OptimizerSection(), made.executor)
    loop, adam = made.executor.inner, optimizer.optimizers[0]
    assert isinstance(loop, PlainLoop)

    def noted(function: Callable[..., Any], say: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            events.append(say(*args, **named))
            return function(*args, **named)

        return call

    def number(_: Any, batch: Microbatch) -> str:
        return f"F {next(i for i, each in enumerate(batches) if torch.equal(each.tokens_BT, batch.tokens_BT))}"

    def added(x: torch.Tensor, **_: Any) -> str:
        return "all-reduce" if x.numel() > 1000 else "norm"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "objective", noted(objective, number))
        patch.setattr(torch.autograd, "backward", noted(torch.autograd.backward, lambda *_: f"B{events[-1][1:]}"))
        patch.setattr(dist, "all_reduce", noted(dist.all_reduce, added))
        patch.setattr(dist, "reduce", noted(dist.reduce, lambda *_, group_dst, **__: f"reduce to {group_dst}"))
        send = noted(dist.broadcast, lambda *_, group_src, **__: f"broadcast from {group_src}")
        patch.setattr(dist, "broadcast", send)
        patch.setattr(adam, "step", noted(adam.step, lambda: "AdamW"))
        made.executor.forward_backward(batches, 100.0)
        optimizer.step(1e-3)
    return [event for event, _ in groupby(events)]


@pytest.mark.parametrize("sharded", [False, True])
def test_the_runtime_goes_through_a_step_as_it_is_drawn(sharded: bool) -> None:
    """What is called when, on both ranks; a norm stands for the sums and the norm."""
    lanes = (zero_1 if sharded else data_parallel)(2, 4, 1, 2, 3, 0.5, 2)
    for rank, events in enumerate(pool(2).run(_step, sharded)):
        assert events == [task.label for task in lanes.tasks if rank in task.ranks]


@given(drawn(shard_weights))
def test_at_most_two_blocks_are_whole(given: dict[str, Any]) -> None:
    """From the beginning of its gather to the end of the pass that it is for a block needs room."""
    timeline = timed(shard_weights(**given))
    network = [(begin, task) for task, begin, _ in timeline.of(0, "network") if task.work == "weights"]
    passes = [end for task, _, end in timeline.of(0, "arithmetic") if task.work in ("forward", "backward")]
    assert len(network) == len(passes) == 2 * given["blocks"]
    for number, (begin, _) in enumerate(network[2:], start=2):
        assert begin >= passes[number - 2]
    assert sum(task.label.startswith("scatter") for task, _, _ in timeline.of(0, "network")) == given["blocks"]


def test_a_layer_with_experts_by_hand() -> None:
    """Shared experts of 1 and 2 are beside a dispatch of 2 and of 3; nothing is beside the combine."""
    timeline = timed(expert_parallel(2, 2, 1, 3, 2, 2, 3))
    labels = ["attention", "shared", "experts", "experts", "shared", "attention"]
    assert order(timeline, 0, "arithmetic") == labels
    assert begins(timeline, "arithmetic") == [0, 2, 4, 12, 18, 21]
    assert order(timeline) == ["dispatch", "combine", "combine", "dispatch"] and begins(timeline) == [2, 7, 10, 18]
    assert timeline.end == 25 and timeline.hidden_share == pytest.approx((1 + 2) / 10)


def test_a_pair_takes_turns_as_in_the_reports_figure() -> None:
    """Figure 4: MLP(B), MLP(F), ATTN(B), ATTN(F) beside DISPATCH(F), DISPATCH(B), COMBINE(F), COMBINE(B)."""
    pair, alone = map(timed, overlapped_pair(3, 1, 0, 1, 2, 1, 1, 0.5))
    computed = [(task.label, task.work) for task, _, _ in pair.of(0, "arithmetic") if task.time]
    cycle = [("experts", "backward"), ("experts", "forward"), ("attention", "backward"), ("attention", "forward")]
    assert computed == [("attention", "forward"), *(cycle * 3)[:-1]]
    travelled = [(task.label, task.work) for task, _, _ in pair.of(0, "network")]
    ways = [("combine", "slopes"), ("dispatch", "states"), ("dispatch", "slopes"), ("combine", "states")]
    assert travelled == [*ways * 3, ("send", "states"), ("send", "slopes")]
    assert pair.end == 3 * (1 + 1 + 2 + 2) + 0.5, "arithmetic never waits"
    assert alone.end == 3 * (1 + 1 + 2 + 2 + 4) + 2 * 0.5, "here it waits for every way, and for the first message"


@given(drawn(overlapped_pair))
def test_a_pair_is_never_slower_than_one_after_the_other(given: dict[str, Any]) -> None:
    pair, alone = map(timed, overlapped_pair(**given))
    assert pair.end <= alone.end
    for lane in ("arithmetic", "network"):
        assert sorted(order(pair, 0, lane)) == sorted(order(alone, 0, lane))
        assert pair.busy(0, lane) == alone.busy(0, lane)  # type: ignore[arg-type]


@given(st.integers(1, 64))
def test_zig_zag_gives_all_ranks_the_same_attention(ranks: int) -> None:
    """Counted query by query: each sees the places up to its own, whatever the length of a piece."""
    zig_zags = [attention_share(zig_zag(rank, ranks), ranks) for rank in range(ranks)]
    assert zig_zags == [pytest.approx(1 / ranks)] * ranks
    stretches = [attention_share(contiguous(rank, ranks), ranks) for rank in range(ranks)]
    assert sum(stretches) == pytest.approx(1)
    assert stretches[-1] == pytest.approx((2 * ranks - 1) / ranks**2), "nearly twice the share, with many ranks"
    for pieces in (zig_zag, contiguous):
        assert sorted(one for rank in range(ranks) for one in pieces(rank, ranks)) == list(range(2 * ranks))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_are_those_of_the_places_that_ranks_really_have(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's places, each of which sees itself and all before it; a place is not half of itself, so pieces are long."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group: ranks)
    length = 2 * ranks * 500
    rows = torch.zeros(1, length, dtype=torch.long)
    for rank in range(ranks):
        monkeypatch.setattr("torch.distributed.get_rank", lambda group, rank=rank: rank)
        shared = ContextGroup(None).part(Microbatch(rows, rows, rows)).shared  # type: ignore[arg-type]
        assert shared is not None
        seen = Fraction(int((shared.places_T + 1).sum()), length * (length + 1) // 2)
        assert float(seen) == pytest.approx(attention_share(zig_zag(rank, ranks), ranks), abs=1e-3)


def test_context_by_hand() -> None:
    """Of eight units of attention each of four ranks has two, or the last one three and a half."""
    shared, stretched = map(timed, context_parallel(4, 1, 1, 0.5, 0.5, 8, 1, 2))
    assert shared.end == (1 + 0.5 + 0.5 + 2 + 1) + (2 + 4 + 1 + 0.5 + 2)
    assert stretched.end == shared.end + (3.5 - 2) + (7 - 4)
    assert shared.hidden_share == 0, "latents are waited for"
    assert [label for label in order(shared, 1, "arithmetic") if "attention" in label] == ["attention 1,6"] * 2


@given(drawn(context_parallel))
def test_zig_zag_is_never_slower(given: dict[str, Any]) -> None:
    shared, stretched = map(timed, context_parallel(**given))
    assert shared.end <= stretched.end + 1e-9
    busy = [shared.busy(rank, "arithmetic") for rank in range(given["ranks"])]
    assert busy == [pytest.approx(busy[0])] * len(busy)
    whole = sum(stretched.busy(rank, "arithmetic") for rank in range(given["ranks"]))
    assert whole == pytest.approx(sum(busy)), "the same work, otherwise shared out"
