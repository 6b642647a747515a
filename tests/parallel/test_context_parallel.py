"""Ranks that share the places of rows give what one process gives, with MTP, packed documents and everything else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor
from trained_steps import Layout, Task, compare, task_of

from sapience.model.batch import Microbatch, prediction_labels
from sapience.ops.cross_entropy import IGNORE
from sapience.parallel.context import ContextGroup
from sapience.parallel.groups import make_groups
from sapience.training.objective import NextTokens

SLOW = pytest.mark.slow


@pytest.mark.parametrize(("ranks", "sharded"), [
    (2, True), pytest.param(2, False, marks=SLOW), pytest.param(4, True, marks=SLOW), pytest.param(4, False, marks=SLOW),
])  # fmt: skip
def test_twenty_steps_are_those_of_one_process(ranks: int, sharded: bool) -> None:
    compare(task_of(layers=3), Layout(data=ranks, context=ranks, sharded=sharded), 1e-9)


@pytest.mark.parametrize("depths", [0, 2])
def test_with_any_number_of_prediction_depths(depths: int) -> None:
    config = tiny_config(num_hidden_layers=3, num_nextn_predict_layers=depths)
    compare(Task(config, steps=3), Layout(data=2, context=2), 1e-9)


@pytest.mark.parametrize("expert", [1, 2, 4])
def test_several_groups_and_experts_spread_within_and_across_them(expert: int) -> None:
    compare(task_of(layers=3, steps=3), Layout(data=4, context=2, expert=expert, sharded=True), 1e-9)


@pytest.mark.parametrize(("name", "expert"), [
    ("1f1b", 1), ("interleaved", 2), ("zb1p", 2), ("dualpipe", 2), ("dualpipev", 1),
])  # fmt: skip
def test_with_pipelines(name: str, expert: int) -> None:
    layout = Layout(2, name, data=2, context=2, expert=expert, sharded=True)
    compare(task_of(layers=5, steps=3, microbatches=4), layout, 1e-9)


def test_float32() -> None:
    compare(task_of(layers=3, steps=2, dtype=torch.float32), Layout(data=2, context=2), 1e-5)


def _hidden(kind: str, length: int, recompute: bool) -> list[Any]:
    """A pass over rows of a length: the whole rows' states, put together, and the gradient of the embedding."""
    group = ContextGroup(make_groups([range(dist.get_world_size())])[0])
    batch = _batch(kind, length)
    part = group.part(batch)
    model = tiny_model(tiny_config(), dtype=torch.float64)
    if recompute:
        model.recompute(["norms", "attention_up"])
    loss, sums = NextTokens(0.3, 1e-2)(model, part)
    loss.backward()  # type: ignore[no-untyped-call]
    forward = model(part)
    states = [group.gathered(state.detach()) for state in (forward.hidden_BTD, *forward.predictions)]
    gradient = model.embedding.weight.grad
    assert gradient is not None
    dist.all_reduce(gradient, group=group.group)
    return [states, gradient, float(sums.values["loss"])]


def _batch(kind: str, length: int) -> Microbatch:
    batch = random_batch(tiny_config(), 3, length, seed=length, isolate=kind == "isolated")
    if kind == "positions":
        places = torch.arange(length).expand(3, -1)
        batch = replace(batch, positions_BT=(places * 7 + 3) % length)
    if kind == "prefix":
        batch = replace(batch, prefix=True)
    return batch


@pytest.mark.parametrize("kind", ["plain", "isolated", "prefix", "positions"])
@pytest.mark.parametrize(("ranks", "length", "recompute"), [
    (2, 17, False), (4, 33, True), pytest.param(2, 32, True, marks=SLOW), pytest.param(4, 9, False, marks=SLOW),
])  # fmt: skip
def test_states_of_all_places_are_those_of_one_process(kind: str, ranks: int, length: int, recompute: bool) -> None:
    model, batch = tiny_model(tiny_config(), dtype=torch.float64), _batch(kind, length)
    forward = model(batch)
    loss, sums = NextTokens(0.3, 1e-2)(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    answers = pool(ranks).run(_hidden, kind, length, recompute)
    seen = batch.valid_BT if kind != "plain" else torch.ones_like(batch.valid_BT)
    for states, gradient, _ in answers:
        for depth, (ours, theirs) in enumerate(zip(states, (forward.hidden_BTD, *forward.predictions), strict=True)):
            places = seen[:, : length - depth]
            assert torch.allclose(ours[:, : length - depth][places], theirs.detach()[places], rtol=1e-10, atol=1e-12)
        assert torch.allclose(gradient, model.embedding.weight.grad, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
    assert sum(loss for *_, loss in answers) == pytest.approx(float(sums.values["loss"]), rel=1e-12)


def _exchanged(seed: int) -> tuple[list[Microbatch], Tensor, Tensor, Tensor]:
    """This rank's part of a batch, and what comes of numbering its places."""
    group = ContextGroup(make_groups([range(dist.get_world_size())])[0])
    part = group.part(random_batch(tiny_config(), 2, 19, seed=seed))
    assert part.shared is not None
    places = part.shared.places_T.double()[None, :, None]
    ahead = prediction_labels(part, 2)
    return [replace(part, shared=None)], group.gathered(places), ahead, part.shared.places_T


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_place_is_somebodys_and_all_have_the_same_work(ranks: int) -> None:
    batch = random_batch(tiny_config(), 2, 19, seed=5)
    answers = pool(ranks).run(_exchanged, 5)
    length = -(-19 // (2 * ranks)) * 2 * ranks
    assert all(gathered.flatten().tolist() == list(range(length)) for _, gathered, *_ in answers)
    pairs = [int((places + 1).sum()) for *_, places in answers]
    assert len(set(pairs)) == 1  # of queries and keys, under causality
    labels = torch.cat([part.labels_BT.flatten() for (part,), *_ in answers])
    assert sorted(labels.tolist()) == sorted(batch.labels_BT.flatten().tolist() + [IGNORE] * 2 * (length - 19))
    ahead = torch.cat([each.flatten() for *_, each, _ in answers])
    wanted = prediction_labels(batch, 2).flatten().tolist()
    assert sorted(ahead.tolist()) == sorted(wanted + [IGNORE] * 2 * (length - 17))
