"""Experts spread over ranks give what one process gives, alone and with pipelines and ZeRO-1."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor
from trained_steps import Layout, Task, compare, task_of, trained

from sapience.ops.fp8_tiles import dequantized, rows_reference
from sapience.parallel import all_to_all
from sapience.parallel.all_to_all import arrive, depart
from sapience.parallel.experts import spread_experts
from sapience.parallel.groups import make_groups
from sapience.training.objective import NextTokens


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("sharded", [False, True])
def test_twenty_steps_are_those_of_one_process(ranks: int, sharded: bool) -> None:
    compare(task_of(layers=3), Layout(data=ranks, expert=ranks, sharded=sharded), 1e-9)


@pytest.mark.parametrize("sharded", [False, True])
def test_several_groups_with_the_same_experts(sharded: bool) -> None:
    compare(task_of(layers=3, steps=3), Layout(data=4, expert=2, sharded=sharded), 1e-9)


@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb1p", "dualpipe", "dualpipev"])
def test_pipelines_whose_ranks_share_experts(name: str) -> None:
    compare(task_of(layers=5, steps=3, microbatches=8), Layout(2, name, data=2, expert=2, sharded=True), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb1p", "dualpipe", "dualpipev"])
def test_twenty_steps_of_pipelines_whose_ranks_share_experts(name: str) -> None:
    compare(task_of(layers=5, microbatches=8), Layout(2, name, data=2, expert=2, sharded=True), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [
    Layout(2, "dualpipe", data=4, expert=2, sharded=True), Layout(4, "zb1p", data=2, expert=2, sharded=True),
    Layout(2, "dualpipev", data=4, expert=4), Layout(4, "dualpipe", data=2, expert=2, sharded=True),
    Layout(2, "interleaved", data=4, expert=4, context=2, sharded=True), Layout(data=8, expert=8, sharded=True),
], ids=str)  # fmt: skip
def test_mixtures_of_eight(layout: Layout) -> None:
    compare(task_of(steps=20, microbatches=32), layout, 1e-9)


def test_float32() -> None:
    compare(task_of(layers=3, steps=2, dtype=torch.float32), Layout(data=2, expert=2), 1e-5)


def test_experts_that_nobody_has_chosen() -> None:
    """One of two ranks may well have no work at all: 64 experts, 34 tokens, one expert each."""
    config = tiny_config(num_hidden_layers=2, n_routed_experts=64, num_experts_per_tok=1, n_group=1, topk_group=1)
    compare(Task(config, steps=2), Layout(data=4, expert=4), 1e-9)


def test_experts_that_cannot_be_divided_and_uneven_shares_are_refused() -> None:
    config = tiny_config(num_hidden_layers=2, n_routed_experts=6, n_group=2, topk_group=1)
    with pytest.raises(RuntimeError, match="6 experts cannot be divided among 4 ranks"):
        pool(4).run(trained, Task(config, steps=1), Layout(data=4, expert=4))
    with pytest.raises(RuntimeError, match="3 micro-batches are no multiple of 2 ranks"):
        pool(2).run(trained, task_of(layers=3, steps=1, microbatches=3), Layout(data=2, expert=2))


def _rows(rank: int, rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * rank + rows)
    spread = 10 ** (4 * torch.rand(rows, 1, generator=generator) - 2)  # outliers: rows of very different sizes
    return torch.randn(rows, width, generator=generator) * spread


def _travelled(counts: list[list[int]], width: int, narrow: bool, narrow_back: bool) -> tuple[Tensor, Tensor]:
    """What has arrived here, and the gradient that came back."""
    group = make_groups([range(len(counts))])[0]
    rank = dist.get_rank()
    leaving, arriving = counts[rank], [each[rank] for each in counts]
    rows = _rows(rank, sum(leaving), width).requires_grad_()
    arrived = arrive(depart(rows, leaving, arriving, group, narrow, narrow_back))
    arrived.backward(_rows(50 + rank, sum(arriving), width))  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    return arrived.detach(), rows.grad


def _kept(rows: Tensor, narrow: bool) -> Tensor:
    if not narrow:
        return rows
    return dequantized(rows_reference(rows))[: rows.shape[0], : rows.shape[1]]


@pytest.mark.parametrize("width", [128, 72, 200])
@pytest.mark.parametrize(("narrow", "narrow_back"), [(False, False), (True, False), (False, True)])
def test_rows_travel_as_tiles_and_gradients_too(width: int, narrow: bool, narrow_back: bool) -> None:
    counts = [[3, 2], [0, 130]]
    answers = pool(2).run(_travelled, counts, width, narrow, narrow_back)
    sent = [_kept(_rows(rank, sum(counts[rank]), width), narrow).split(counts[rank]) for rank in range(2)]
    arriving = [[counts[sender][rank] for sender in range(2)] for rank in range(2)]
    back = [_kept(_rows(50 + rank, sum(arriving[rank]), width), narrow_back).split(arriving[rank]) for rank in range(2)]
    for rank, (arrived, gradient) in enumerate(answers):
        assert torch.equal(arrived, torch.cat([parts[rank] for parts in sent]))
        assert torch.equal(gradient, torch.cat([parts[rank] for parts in back]))


def test_nobody_sends_anything() -> None:
    for arrived, gradient in pool(2).run(_travelled, [[0, 0], [0, 0]], 128, True, True):
        assert arrived.shape == gradient.shape == (0, 128)


def _loss(precision: str, narrow: bool | None) -> tuple[float, Tensor]:
    """A pass through layers whose tokens travel (none do with None), and all gradients that this rank has."""
    group = make_groups([range(dist.get_world_size())])[0]
    config = tiny_config(num_hidden_layers=3)
    model = tiny_model(config)
    if narrow is not None:
        spread_experts(model, group, narrow)
    model.compute_in(precision)  # type: ignore[arg-type]
    loss, _ = NextTokens(0.3, 1e-2)(model, random_batch(config, 2, 24, seed=dist.get_rank()))
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_in_fp8_experts_see_the_same_numbers_however_tokens_travel() -> None:
    """Scales are powers of two: tiles of tiles are the tiles themselves."""
    alone, exact, narrow = (pool(2).run(_loss, "fp8", narrow) for narrow in (None, False, True))
    assert [loss for loss, _ in alone] == [loss for loss, _ in exact] == [loss for loss, _ in narrow]
    for (_, x), (_, y) in zip(exact, narrow, strict=True):
        assert float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum())) < 2e-3


def test_dispatch_in_fp8_changes_little_and_something() -> None:
    exact, narrow = (pool(2).run(_loss, "fp32", narrow) for narrow in (False, True))
    for (loss, x), (other, y) in zip(exact, narrow, strict=True):
        assert loss != other and other == pytest.approx(loss, rel=2e-2)
        assert 0 < float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum())) < 5e-2


def _order() -> list[str]:
    """What happens when, in a pass forward and back through one layer."""
    events: list[str] = []
    launch, wait = all_to_all.Shipment.launch, all_to_all.Shipment.wait

    def launching(message: Any, rows: Tensor) -> None:
        events.append("launch rows" if rows.ndim == 2 else "launch weights")
        launch(message, rows)

    def waiting(message: Any) -> Tensor:
        rows = wait(message)
        events.append("rows are there" if rows.ndim == 2 else "weights are there")
        return rows

    all_to_all.Shipment.launch, all_to_all.Shipment.wait = launching, waiting  # type: ignore[method-assign]
    try:
        config = tiny_config(num_hidden_layers=2, num_nextn_predict_layers=0)
        model = tiny_model(config)
        spread_experts(model, make_groups([range(dist.get_world_size())])[0])
        shared = model.gates()[0].shared
        assert shared is not None
        shared.register_forward_hook(lambda *_: events.append("shared"))
        shared.register_full_backward_hook(lambda *_: events.append("shared back"))
        states = model(random_batch(config, 2, 24)).hidden_BTD
        events.append("and back")
        states.sum().backward()  # type: ignore[no-untyped-call]
    finally:
        all_to_all.Shipment.launch, all_to_all.Shipment.wait = launch, wait  # type: ignore[method-assign]
    return events


def test_shared_experts_work_while_tokens_travel_and_their_gradients_too() -> None:
    for events in pool(2).run(_order):
        there, back = events[: events.index("and back")], events[events.index("and back") + 1 :]
        assert there == [
            "launch rows", "launch weights", "shared", "rows are there", "weights are there", "launch rows",
            "rows are there",
        ]  # fmt: skip
        # The outputs' gradients have gone to the experts and come back as the tokens', and meanwhile:
        assert back[0] == "launch rows" and back[1] == "rows are there"
        assert back.index("shared back") > max(i for i, event in enumerate(back) if event.startswith("launch"))
        assert back.index("shared back") < back.index("rows are there", 2)


def _compiled_losses(compiled: bool) -> tuple[list[float], int]:
    """Of micro-batches that are routed differently, and how many graphs were made of them."""
    from torch._dynamo.utils import counters

    counters.clear()
    config = tiny_config(num_hidden_layers=2, num_nextn_predict_layers=0)
    model = tiny_model(config)
    spread_experts(model, make_groups([range(dist.get_world_size())])[0])
    if compiled:
        model.compile_layers()
    losses = []
    for seed in range(12):
        loss, _ = NextTokens(0.0, 1e-2)(model, random_batch(config, 2, 24, seed=2 * seed + dist.get_rank()))
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    return losses, counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_layers_around_spread_experts_are_compiled_once() -> None:
    for (eager, none), (compiled, graphs) in zip(
        *(pool(2).run(_compiled_losses, each) for each in (False, True)), strict=True
    ):
        assert compiled == pytest.approx(eager, rel=1e-5)
        assert none == 0 and 0 < graphs < 10
