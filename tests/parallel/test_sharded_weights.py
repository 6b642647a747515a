"""Weights that no rank has whole give what whole ones give, and no rank keeps more of them than its rows."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor
from trained_steps import Layout, Task, alone, compare, task_of, trained

from sapience.model.block import ExpertBlock
from sapience.model.transformer import copies_of
from sapience.parallel.spread import spread
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet

SLOW = pytest.mark.slow
CUT = Layout(data=4, sharded=True, weights=True)
UNEVEN = tiny_config(num_hidden_layers=3, q_lora_rank=9, kv_lora_rank=5, n_routed_experts=6, n_group=3)
"""Of four ranks the last one has nothing of nine rows, and of three experts two ranks have two and one."""


@pytest.mark.parametrize("layout", [
    replace(CUT, data=2), replace(CUT, expert=2), pytest.param(CUT, marks=SLOW),
    pytest.param(replace(CUT, data=2, expert=2), marks=SLOW), pytest.param(replace(CUT, data=2, context=2), marks=SLOW),
    pytest.param(replace(CUT, expert=4), marks=SLOW), pytest.param(replace(CUT, context=4), marks=SLOW),
    pytest.param(replace(CUT, context=2, expert=2), marks=SLOW), pytest.param(replace(CUT, sharded=False), marks=SLOW),
], ids=str)  # fmt: skip
def test_twenty_steps_are_those_of_one_process(layout: Layout) -> None:
    compare(task_of(layers=3), layout, 1e-9)


@pytest.mark.parametrize(("layout", "microbatches"), [(CUT, 8), (replace(CUT, expert=2, context=2), 4)], ids=str)
def test_rows_that_cannot_be_divided_evenly(layout: Layout, microbatches: int) -> None:
    """Some micro-batches a rank, whose gradients add up."""
    compare(Task(UNEVEN, steps=2, microbatches=microbatches), layout, 1e-9)


def test_a_rank_that_is_the_only_one_with_its_experts_keeps_them() -> None:
    compare(task_of(layers=3, steps=3), replace(CUT, data=2, expert=2), 1e-9)


def test_parts_of_layers_that_are_computed_again() -> None:
    compare(task_of(layers=3, steps=3, recompute=("norms", "attention_up")), replace(CUT, data=2), 1e-9)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_float32(moments: str) -> None:
    compare(task_of(layers=3, steps=2, dtype=torch.float32, moments=moments), replace(CUT, data=2), 1e-5)


def test_micro_batches_are_a_multiple_of_ranks() -> None:
    with pytest.raises(RuntimeError, match="3 micro-batches are no multiple of 2 ranks that share experts or weights"):
        pool(2).run(trained, task_of(layers=3, steps=1, microbatches=3), replace(CUT, data=2))


@pytest.mark.parametrize("layout", [replace(CUT, expert=2), pytest.param(replace(CUT, data=2), marks=SLOW)], ids=str)
def test_bfloat16_differs_from_one_process_by_its_rounding_alone(layout: Layout) -> None:
    """What is gathered is in bfloat16, and so is a micro-batch's gradient, before it is added up in float32."""
    task = task_of(layers=3, steps=2, dtype=torch.float32, precision="bf16")
    whole = alone(task)
    for told in pool(layout.mesh.ranks).run(trained, task, layout):
        assert told.steps[0][0] == pytest.approx(whole.steps[0][0], rel=1e-5)
        assert told.steps[0][1] == pytest.approx(whole.steps[0][1], rel=1e-5)
        for ours, theirs in zip(told.steps, whole.steps, strict=True):
            assert ours[0] == pytest.approx(theirs[0], rel=0.01)
            assert ours[1] == pytest.approx(theirs[1], rel=0.01)
        for key, gradient in told.gradients.items():
            wanted = told.part(key, whole.gradients[key])
            assert gradient.dtype == torch.float32
            assert float((gradient - wanted).norm()) <= 0.005 * float(wanted.norm()), key


def gathered(layout: Layout) -> tuple[dict[str, int], int, int, dict[str, int]]:
    """Rows that a rank has, in elements; the bytes of other layers' weights while a layer works, and of all of them after a
    step; elements of moments."""
    task = task_of(layers=4)
    model, objective = tiny_model(task.config), NextTokens(0.3, 1e-2)
    made = spread(model, objective, layout.mesh, layout.section, 8)
    optimizer = OptimizerSet(model, OptimizerSection(), made.executor)
    assert made.executor.cut is not None
    cut, working, others = made.executor.cut, dict[int, list[Tensor]](), list[int]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    cut_here = [sum(names[id(p)] in cut.groups for p in block.parameters()) for block in model.blocks()]

    def bytes_of(weights: list[Tensor]) -> int:
        return sum(weight.untyped_storage().nbytes() for weight in weights)

    def look(place: int, *_: Any) -> None:
        working[place] = [p for p in model.blocks()[place].parameters() if id(p) not in names]  # gathered
        assert len(working[place]) == cut_here[place] and bytes_of(working[place])
        others.append(sum(bytes_of(weights) for other, weights in working.items() if other != place))

    for place, block in enumerate(model.blocks()):
        last = block.shared if isinstance(block, ExpertBlock) else block.feed_forward
        assert last is not None
        last.register_forward_hook(partial(look, place))
    batches = [random_batch(task.config, 2, 17, seed=m) for m in range(8)]
    made.executor.forward_backward(batches, labelled_tokens(batches))
    optimizer.step(1e-3)
    after = sum(bytes_of(weights) for weights in working.values())
    assert sum(cut_here) == len(cut.groups) and others
    moments = {key.partition("/")[2]: value.numel() for key, value in optimizer.tensors().items() if "exp_avg/" in key}
    return {name: rows.numel() for name, rows in cut.slices.items()}, max(others), after, moments


@pytest.mark.parametrize("layout", [CUT, replace(CUT, expert=2)], ids=str)
def test_no_rank_keeps_more_than_its_rows(layout: Layout) -> None:
    model = tiny_model(task_of(layers=4).config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    cut = {names[id(weight)]: weight for block in model.blocks() for weight, _ in copies_of(block)}
    answers = pool(4).run(gathered, layout)
    for rows, while_another_works, after, moments in answers:
        assert rows.keys() == cut.keys()
        assert while_another_works == after == 0
        assert all(moments[name] == number for name, number in rows.items() if number)
        assert sum(rows.values()) <= 1.1 * sum(weight.numel() for weight in cut.values()) / 4
    for name, weight in cut.items():
        assert sum(rows[name] for rows, *_ in answers) == weight.numel()
