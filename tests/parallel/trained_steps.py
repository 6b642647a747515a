"""Some steps of training on a layout of ranks, held against the same steps in one process."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from sapience.parallel.data import DataParallel
from sapience.parallel.executor import PlainLoop, StepExecutor
from sapience.parallel.experts import part_of, spread_experts
from sapience.parallel.groups import make_groups
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


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work."""

    pipeline: int = 1
    schedule: str = "1f1b"
    data: int = 1
    sharded: bool = False
    expert: int = 1

    @property
    def ranks(self) -> int:
        return self.pipeline * self.data


@dataclass(frozen=True)
class Task:
    """What is trained."""

    config: ModelSection
    dtype: torch.dtype = torch.float64
    steps: int = 20
    microbatches: int = 4
    optimizer: str = "adamw"


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


class Recorded(NextTokens):
    """Keeps every micro-batch's loss."""

    def of_tokens(
        self, model: Transformer, hidden_BTD: Tensor, predictions: Sequence[Tensor], batch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, values = super().of_tokens(model, hidden_BTD, predictions, batch)
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
    if layout is not None:
        executor = shared = _executor(model, objective, layout, task.microbatches)
    # With V3's epsilon Adam makes of gradients of 1e-12, which differ in their last bits, updates that differ in their
    # fifth digit.
    section = OptimizerSection(clip=0.5, epsilon=1e-5, name=task.optimizer)  # type: ignore[arg-type]
    optimizer = OptimizerSet(model, section, shared)
    told: list[Any] = []
    gradients: dict[str, Tensor] = {}
    for step in range(task.steps):
        batches = [
            random_batch(task.config, 2, 17, seed=1000 * step + m, isolate=m % 2 == 1) for m in range(task.microbatches)
        ]
        sums = executor.forward_backward(batches, labelled_tokens(batches))
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        norm = optimizer.step(1e-3)
        update_biases(model, sums, 1e-2)
        told.append(({name: float(value) for name, value in sums.values.items()}, float(norm), sums.loads_LE.tolist()))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    return Told(told, weights, dict(_seen), gradients)


def _executor(model: Transformer, objective: NextTokens, layout: Layout, microbatches: int) -> Any:
    pipelines = [list(range(d * layout.pipeline, (d + 1) * layout.pipeline)) for d in range(layout.data)]
    inner: StepExecutor = PlainLoop(model, objective)
    part: Pipeline | None = None
    if layout.pipeline > 1:
        build = partial(SCHEDULES[layout.schedule], layout.pipeline)
        schedule = build(microbatches // layout.data)
        division = divide(model.config, schedule.stages)
        keep(model, stages_of(schedule, dist.get_rank() % layout.pipeline), division)
        inner = part = Pipeline(model, objective, build, division, schedule.copies, pipelines)
    if layout.data == 1:
        assert part is not None
        return part
    groups = make_groups([ranks[place] for ranks in pipelines] for place in range(layout.pipeline))
    group = groups[dist.get_rank() % layout.pipeline]
    apart = _spread(model, layout, pipelines) if layout.expert > 1 else {}
    return DataParallel(model, inner, objective.names, group, part, layout.sharded, apart)


def _spread(model: Transformer, layout: Layout, pipelines: list[list[int]]) -> dict[str, dist.ProcessGroup]:
    """Experts to groups of neighbours in the data dimension; the group of those that have the same, by parameter."""
    place, replica = dist.get_rank() % layout.pipeline, dist.get_rank() // layout.pipeline
    size, same, own = layout.expert, [], []
    for at in range(layout.pipeline):
        column = [ranks[at] for ranks in pipelines]
        own += make_groups(column[start : start + size] for start in range(0, len(column), size))
        same += make_groups(column[start::size] for start in range(size))
    names = spread_experts(model, own[place * (layout.data // size) + replica // size])
    return dict.fromkeys(names, same[place * size + replica % size])


def compare(task: Task, layout: Layout, near: float) -> list[Told]:
    """Every rank says what one process says, and together they have all of the model."""
    whole = trained(task, None)
    answers = pool(layout.ranks).run(trained, task, layout)
    for rank, told in enumerate(answers):
        place = rank // layout.pipeline % layout.expert
        part = part_of(task.config.n_routed_experts, place, layout.expert)
        for ours, theirs in zip(told.steps, whole.steps, strict=True):
            assert ours[0] == pytest.approx(theirs[0], rel=near)
            assert ours[1] == pytest.approx(theirs[1], rel=near)
            assert ours[2] == theirs[2]
        for key, value in told.weights.items():
            wanted = whole.weights[key][part] if ".experts." in key else whole.weights[key]
            assert torch.allclose(value, wanted, rtol=near, atol=near), key
        for key, value in told.gradients.items():
            wanted = whole.gradients[key][part] if ".experts." in key else whole.gradients[key]
            x, y = value.double(), wanted.double()
            assert float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum())) <= max(near**2, 1e-13), key
        for key, losses in told.losses.items():
            assert losses[0] == pytest.approx(whole.losses[key][0], rel=near)
            if task.dtype == torch.float64 and task.steps == 1:
                assert losses == whole.losses[key]
    assert {key for told in answers for key in told.weights} == set(whole.weights)
    assert {key for told in answers for key in told.gradients} == set(whole.gradients)
    assert {key for told in answers for key in told.losses} == set(whole.losses)
    return answers


def task_of(layers: int = 9, **changes: Any) -> Task:
    """With V3 in miniature, and so many layers."""
    return Task(tiny_config(num_hidden_layers=layers), **changes)
