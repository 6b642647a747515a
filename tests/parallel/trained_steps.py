"""Some steps of training on a layout of ranks, held against the same steps in one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor

from sapience.model.batch import Microbatch
from sapience.model.linear import Precision
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop
from sapience.parallel.mesh import Mesh
from sapience.parallel.spread import Rows, spread
from sapience.recipe.compute import RecomputedPart
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.recipe.parallel import ParallelSection
from sapience.training.loop import update_biases
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work."""

    pipeline: int = 1
    schedule: str = "1f1b"
    data: int = 1
    sharded: bool = False
    expert: int = 1
    context: int = 1
    weights: bool = False

    @property
    def mesh(self) -> Mesh:
        return Mesh(self.pipeline, self.data, self.expert, self.context)

    @property
    def section(self) -> ParallelSection:
        return ParallelSection(
            pipeline=self.pipeline,
            schedule=self.schedule,  # type: ignore[arg-type]
            expert=self.expert,
            context=self.context,
            shard_optimizer=self.sharded,
            shard_weights=self.weights,
        )


@dataclass(frozen=True)
class Task:
    """What is trained."""

    config: ModelSection
    dtype: torch.dtype = torch.float64
    steps: int = 20
    microbatches: int = 4
    optimizer: str = "adamw"
    moments: str = "fp32"
    precision: Precision = "fp32"
    recompute: tuple[RecomputedPart, ...] = ()


@dataclass(frozen=True)
class Told:
    """What a rank has to say of it."""

    steps: list[tuple[dict[str, float], float, list[list[float]]]]
    """Sums, gradient's norm and loads of each."""
    weights: dict[str, Tensor]
    losses: dict[tuple[int, ...], list[float]]
    """Of micro-batches, by their first tokens."""
    gradients: dict[str, Tensor]
    """Of the first step."""
    rows: dict[str, Rows]
    """Of the parameters that a rank has a part of."""

    def part(self, key: str, whole: Tensor) -> Tensor:
        """The rank's part of a parameter, a buffer or a gradient."""
        rows = self.rows.get(key)
        return whole if rows is None else whole[rows.first : rows.end]


class Recorded(NextTokens):
    """Keeps every micro-batch's loss."""

    def of_tokens(
        self, model: Transformer, hidden_BTD: Tensor, predictions: Sequence[Tensor], batch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, values = super().of_tokens(model, hidden_BTD, predictions, batch)
        if batch.shared is None:
            _seen.setdefault(tuple(batch.tokens_BT[0, :6].tolist()), []).append(float(total.detach()))
        return total, values


_seen: dict[tuple[int, ...], list[float]] = {}


def trained(task: Task, layout: Layout | None) -> Told:
    """What a rank has after some steps; without a layout the only process."""
    _seen.clear()
    model = tiny_model(task.config, dtype=task.dtype)
    objective = Recorded(0.3, 1e-2)
    executor: Any = PlainLoop(model, objective)
    shared: Any = None
    rows: dict[str, Rows] = {}
    if layout is not None:
        narrow = task.precision == "bf16"
        made = spread(model, objective, layout.mesh, layout.section, task.microbatches, narrow=narrow)
        executor = shared = made.executor
        rows = {key: part for key in model.state_dict() if (part := made.rows(key)) is not None}
    model.compute_in(task.precision).recompute(task.recompute)
    # With V3's epsilon Adam makes of gradients of 1e-12, which differ in their last bits, updates that differ in their
    # fifth digit.
    section = OptimizerSection(clip=0.5, epsilon=1e-5, name=task.optimizer, moments=task.moments)  # type: ignore[arg-type]
    optimizer = OptimizerSet(model, section, shared)
    moved = dict(model.named_parameters()) if shared is None else shared.parameters()
    told: list[Any] = []
    gradients: dict[str, Tensor] = {}
    for step in range(task.steps):
        batches = [
            random_batch(task.config, 2, 17, seed=1000 * step + m, isolate=m % 2 == 1) for m in range(task.microbatches)
        ]
        sums = executor.forward_backward(batches, labelled_tokens(batches))
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in moved.items() if p.grad is not None}
        norm = optimizer.step(1e-3)
        update_biases(model, sums, 1e-2)
        told.append(({name: float(value) for name, value in sums.values.items()}, float(norm), sums.loads_LE.tolist()))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    return Told(told, weights, dict(_seen), gradients, rows)


def alone(task: Task) -> Told:
    """What one process says; the same for all layouts, so it is asked once."""
    key = repr(task)
    if key not in _alone:
        _alone[key] = trained(task, None)
    return _alone[key]


_alone: dict[str, Told] = {}


def compare(task: Task, layout: Layout, near: float) -> list[Told]:
    """Every rank says what one process says, and together they have all of the model."""
    whole = alone(task)
    answers = pool(layout.mesh.ranks).run(trained, task, layout)
    for told in answers:
        for ours, theirs in zip(told.steps, whole.steps, strict=True):
            assert ours[0] == pytest.approx(theirs[0], rel=near)
            assert ours[1] == pytest.approx(theirs[1], rel=near)
            assert ours[2] == theirs[2]
        for key, value in told.weights.items():
            wanted = told.part(key, whole.weights[key])
            assert torch.allclose(value, wanted, rtol=near, atol=near), key
        for key, value in told.gradients.items():
            wanted = told.part(key, whole.gradients[key])
            x, y = value.double(), wanted.double()
            assert float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum())) <= max(near**2, 1e-13), key
        for key, losses in told.losses.items():
            assert losses[0] == pytest.approx(whole.losses[key][0], rel=near)
            if task.dtype == torch.float64 and task.steps == 1:
                assert losses == whole.losses[key]
    assert {key for told in answers for key in told.weights} == set(whole.weights)
    assert {key for told in answers for key in told.gradients} == set(whole.gradients)
    assert {key for told in answers for key in told.losses} == (set(whole.losses) if layout.context == 1 else set())
    return answers


def task_of(layers: int = 9, **changes: Any) -> Task:
    """With V3 in miniature, and so many layers."""
    return Task(tiny_config(num_hidden_layers=layers), **changes)
