"""Chunks cut where tokens travel: the same numbers as whole, and two of them keep each other's messages company."""

import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor
from trained_steps import Layout, Task, compare

from sapience.model.block import ExpertBlock
from sapience.model.transformer import Transformer
from sapience.parallel import all_to_all
from sapience.parallel.experts import SpreadExperts, spread_experts
from sapience.parallel.groups import make_groups
from sapience.parallel.pieces import Pieces, Steps, in_turns


def _steps(name: str, pieces: int, events: list[str]) -> Steps:
    for piece in range(pieces):
        events.append(f"{name}{piece}")
        if piece + 1 < pieces:
            yield


@pytest.mark.parametrize(
    ("forward", "backward", "order"),
    [(3, 3, "b0 f0 b1 f1 b2 f2"), (1, 3, "b0 f0 b1 b2"), (3, 1, "b0 f0 f1 f2"), (1, 1, "b0 f0")],
)
def test_a_pair_takes_turns_and_both_come_to_their_ends(forward: int, backward: int, order: str) -> None:
    events: list[str] = []
    in_turns(_steps("f", forward, events), _steps("b", backward, events))
    assert " ".join(events) == order


def _model(layers: int, narrow: bool, recompute: Sequence[str] = ()) -> Transformer:
    model = tiny_model(tiny_config(num_hidden_layers=layers, num_nextn_predict_layers=0), dtype=torch.float64)
    spread_experts(model, make_groups([range(dist.get_world_size())])[0], narrow)
    model.recompute(recompute)  # type: ignore[arg-type]
    return model


def _entering(seed: int) -> tuple[Tensor, Tensor]:
    """What enters a chunk on this rank, and the gradient of what leaves it."""
    generator = torch.Generator().manual_seed(100 * seed + dist.get_rank())
    entering, slope = torch.randn(2, 2, 17, 32, generator=generator, dtype=torch.float64)
    return entering.requires_grad_(), slope


def _both_ways(cut: bool, narrow: bool, recompute: Sequence[str]) -> list[Tensor]:
    """Of one chunk in pieces or as one: what leaves, the balance terms, and all gradients."""
    model = _model(3, narrow, recompute)
    context = model.context(random_batch(model.config, 2, 17, seed=dist.get_rank()))
    entering, slope = _entering(0)
    if cut:
        pieces = Pieces(model, range(3), context)
        assert len(list(pieces.forward(entering))) == 4  # two layers with experts, there and back
        leaving, routers = pieces.end
    else:
        leaving, routers = model.stretch(entering, range(3), context)
    balance = torch.stack([router.balance_B.sum() for router in routers]).square().sum()
    ends, slopes = [leaving, balance], [slope, None]
    if cut:
        assert len(list(pieces.backward(ends, slopes))) == 4
    else:
        torch.autograd.backward(ends, slopes)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert entering.grad is not None
    return [leaving.detach(), balance.detach(), entering.grad, *gradients]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("recompute", [(), ("norms", "attention_up")])
def test_pieces_give_what_the_whole_chunk_gives(narrow: bool, recompute: Sequence[str]) -> None:
    cut, whole = (pool(2).run(_both_ways, each, narrow, recompute) for each in (True, False))
    for ours, theirs in zip(cut, whole, strict=True):
        assert len(ours) == len(theirs) > 30
        for one, other in zip(ours, theirs, strict=True):
            assert float((one - other).abs().max()) <= 1e-12 * float(other.abs().max())


def _events_of_a_pair() -> tuple[list[str], list[float]]:
    """What happens on this rank while a chunk goes forward and another one back, and both chunks' gradients."""
    model = _model(3, narrow=False)
    context = model.context(random_batch(model.config, 2, 17, seed=dist.get_rank()))
    (first, slope), (second, _) = _entering(1), _entering(2)
    backward, forward = Pieces(model, range(3), context), Pieces(model, range(3), context)
    list(backward.forward(first))
    events: list[str] = []
    launch, wait, here = all_to_all.Shipment.launch, all_to_all.Shipment.wait, SpreadExperts.here

    def launching(shipment: Any, rows: Tensor) -> None:
        if rows.ndim == 2:
            events.append("sent")
        launch(shipment, rows)

    def waiting(shipment: Any) -> Tensor:
        rows = wait(shipment)
        if rows.ndim == 2:
            events.append("there")
        return rows

    def working(experts: Any, rows: Tensor, weights: Tensor, crossing: Any) -> Tensor:
        events.append("experts")
        return here(experts, rows, weights, crossing)

    for block in model.layers:
        if isinstance(block, ExpertBlock):
            block.gate.register_forward_hook(lambda *_: events.append("gate"))
            block.gate.weight_ED.register_post_accumulate_grad_hook(lambda _: events.append("gate back"))
            assert block.shared is not None
            block.shared.register_forward_hook(lambda *_: events.append("shared"))
            block.shared.down.weight.register_post_accumulate_grad_hook(lambda _: events.append("shared back"))
            block.experts.gate_up_EFD.register_post_accumulate_grad_hook(lambda _: events.append("experts back"))
    all_to_all.Shipment.launch, all_to_all.Shipment.wait = launching, waiting  # type: ignore[method-assign]
    SpreadExperts.here = working  # type: ignore[method-assign]
    try:
        in_turns(forward.forward(second), backward.backward([backward.end[0]], [slope]))
    finally:
        all_to_all.Shipment.launch, all_to_all.Shipment.wait = launch, wait  # type: ignore[method-assign]
        SpreadExperts.here = here  # type: ignore[method-assign]
    assert first.grad is not None
    return events, first.grad.flatten().tolist()


def test_while_tokens_of_one_chunk_travel_the_other_chunk_works() -> None:
    """The order of the report's figure 4: experts back, experts, attention back, attention, each while the other's messages
    are under way."""
    for events, gradient in pool(2).run(_events_of_a_pair):
        assert events == [
            "sent",  # the outputs' gradients of the last layer, back
            "gate", "sent", "shared",  # the first layer's tokens, forward
            "there", "experts back", "sent", "shared back",
            "there", "experts", "sent",
            "there", "gate back", "sent",
            "there", "gate", "sent", "shared",
            "there", "experts back", "sent", "shared back",
            "there", "experts", "sent",
            "there", "gate back",
            "there",
        ]  # fmt: skip
        assert any(gradient)


def _kept() -> list[bool]:
    """Of every message of a chunk's forward pass, whether what arrived is still there behind it."""
    model = _model(3, narrow=False)
    pieces = Pieces(model, range(3), model.context(random_batch(model.config, 2, 17, seed=dist.get_rank())))
    arrived: list[Any] = []
    wait = all_to_all.Shipment.wait

    def waiting(shipment: Any) -> Tensor:
        rows = wait(shipment)
        arrived.append(weakref.ref(rows.untyped_storage()))
        return rows

    all_to_all.Shipment.wait = waiting  # type: ignore[method-assign]
    try:
        list(pieces.forward(_entering(0)[0]))
    finally:
        all_to_all.Shipment.wait = wait  # type: ignore[method-assign]
    deadline = time.monotonic() + 10  # gloo's thread lets go of what it has received a moment after that is there
    while any(each() for each in arrived[2::3]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [each() is not None for each in arrived]


def test_experts_outputs_are_not_kept_when_they_have_come_back() -> None:
    for kept in pool(2).run(_kept):
        rows, _, outputs = kept[0::3], kept[1::3], kept[2::3]
        assert rows == [True, True]  # the experts' gradients need them
        assert outputs == [False, False]


@pytest.mark.parametrize("name", ["dualpipe", "dualpipev"])
def test_chunks_of_a_pair_that_have_different_numbers_of_pieces_and_no_shared_experts(name: str) -> None:
    config = tiny_config(num_hidden_layers=5, first_k_dense_replace=3, n_shared_experts=0)
    compare(Task(config, steps=2, microbatches=8), Layout(2, name, data=2, expert=2), 1e-9)
