"""Pipelines on several processes give what one process gives: losses, gradients, balance biases, over many steps."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor

from sapience.model.batch import Microbatch
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop, StepExecutor
from sapience.parallel.pipeline import Pipeline
from sapience.parallel.schedules import dualpipe, dualpipe_v, interleaved, one_forward_one_backward, zero_bubble
from sapience.parallel.stages import divide, keep, stages_of
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.training.loop import update_biases
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet

SCHEDULES = {
    "1f1b": one_forward_one_backward, "interleaved": interleaved, "zb1p": zero_bubble, "dualpipe": dualpipe,
    "dualpipev": dualpipe_v,
}  # fmt: skip
LAYERS = 9


class Recorded(NextTokens):
    """Keeps every micro-batch's loss, by its first tokens."""

    def of_tokens(
        self, model: Transformer, hidden_BTD: Tensor, predictions: Sequence[Tensor], batch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, values = super().of_tokens(model, hidden_BTD, predictions, batch)
        seen.setdefault(tuple(batch.tokens_BT[0, :6].tolist()), []).append(float(total.detach()))
        return total, values


seen: dict[tuple[int, ...], list[float]] = {}


def steps_of(model: Transformer, executor: StepExecutor, optimizer: OptimizerSet, steps: int, rows: int) -> list[Any]:
    """Some steps of training: sums and norm of each."""
    told = []
    for step in range(steps):
        batches = [random_batch(model.config, 2, 17, seed=1000 * step + m, isolate=m % 2 == 1) for m in range(rows)]
        sums = executor.forward_backward(batches, labelled_tokens(batches))
        norm = optimizer.step(1e-3)
        update_biases(model, sums, 1e-2)
        told.append(({name: float(value) for name, value in sums.values.items()}, float(norm), sums.loads_LE.tolist()))
    return told


def trained(config: ModelSection, dtype: torch.dtype, steps: int, rows: int, name: str | None) -> Any:
    """What a rank (or the only process, without a schedule's name) has after some steps, and has recorded on the way."""
    seen.clear()
    model = tiny_model(config, dtype=dtype)
    objective = Recorded(0.3, 1e-2)
    # With V3's epsilon Adam makes of gradients of 1e-12, which differ in their last bits, updates that differ in their fifth digit.
    section = OptimizerSection(clip=0.5, epsilon=1e-5)
    if name is None:
        told = steps_of(model, PlainLoop(model, objective), OptimizerSet(model, section), steps, rows)
    else:
        ranks = dist.get_world_size()
        schedule = SCHEDULES[name](ranks, rows)
        division = divide(config, schedule.stages)
        keep(model, stages_of(schedule, dist.get_rank()), division)
        executor = Pipeline(model, objective, partial(SCHEDULES[name], ranks), division, schedule.copies)
        told = steps_of(model, executor, OptimizerSet(model, section, executor), steps, rows)
    return told, {key: value.clone() for key, value in model.state_dict().items()}, dict(seen)


def config_of(stages: int, **changes: Any) -> ModelSection:
    return tiny_config(num_hidden_layers=max(LAYERS, stages), **changes)


def compare(ranks: int, name: str, dtype: torch.dtype, steps: int, rows: int, near: float, **changes: Any) -> None:
    config = config_of(2 * ranks, **changes)
    whole, weights, losses = trained(config, dtype, steps, rows, None)
    answers = pool(ranks).run(trained, config, dtype, steps, rows, name)
    held: set[str] = set()
    recorded: dict[Any, list[float]] = {}
    for told, part, mine in answers:
        for ours, theirs in zip(told, whole, strict=True):
            for key, value in theirs[0].items():
                assert ours[0][key] == pytest.approx(value, rel=near)
            assert ours[1] == pytest.approx(theirs[1], rel=near)
            assert ours[2] == theirs[2]
        for key, value in part.items():
            assert torch.allclose(value, weights[key], rtol=near, atol=near), (key, (value - weights[key]).abs().max())
        held |= set(part)
        recorded |= mine
    assert held == set(weights)
    first = {key: values for key, values in losses.items() if dtype == torch.float64 and steps == 1}
    assert all(recorded[key] == values for key, values in first.items())


@pytest.mark.parametrize("name", SCHEDULES)
def test_twenty_steps_are_those_of_one_process(name: str) -> None:
    compare(2, name, torch.float64, 20, 4, 1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_four_ranks(name: str) -> None:
    compare(4, name, torch.float64, 3, 8, 1e-9)


@pytest.mark.parametrize("name", ["zb1p", "dualpipe"])
def test_float32(name: str) -> None:
    compare(2, name, torch.float32, 2, 4, 2e-5)


@pytest.mark.parametrize("rows", [8, 12, 20])
def test_dualpipes_losses_have_the_bits_of_the_plain_loop(rows: int) -> None:
    compare(4, "dualpipe", torch.float64, 1, rows, 1e-12)
