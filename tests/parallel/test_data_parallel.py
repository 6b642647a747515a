"""Data-parallel ranks give what one process gives, whoever keeps the optimizer's state."""

import pytest
import torch
from processes import pool
from trained_steps import Layout, alone, compare, task_of, trained


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_twenty_steps_are_those_of_one_process(ranks: int, sharded: bool) -> None:
    compare(task_of(layers=3), Layout(data=ranks, sharded=sharded), 1e-9)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_micro_batches_need_not_be_a_multiple_of_ranks(microbatches: int) -> None:
    compare(task_of(layers=3, steps=3, microbatches=microbatches), Layout(data=2, sharded=True), 1e-9)


def test_float32() -> None:
    compare(task_of(layers=3, steps=2, dtype=torch.float32), Layout(data=2, sharded=True), 1e-5)


def test_muon_with_zero_1() -> None:
    compare(task_of(layers=3, steps=3, optimizer="muon"), Layout(data=2, sharded=True), 1e-9)


@pytest.mark.parametrize("name", ["1f1b", "zb1p", "dualpipe", "dualpipev"])
@pytest.mark.parametrize("sharded", [False, True])
def test_pipelines_side_by_side(name: str, sharded: bool) -> None:
    compare(task_of(layers=5, steps=3, microbatches=8), Layout(2, name, data=2, sharded=sharded), 1e-9)


def test_with_zero_1_every_parameter_has_one_owner() -> None:
    """What is kept of gradients (and so of moments) is shared out, evenly but for a parameter's size."""
    task = task_of(layers=3, steps=1)
    whole = alone(task).gradients
    answers = pool(4).run(trained, task, Layout(data=4, sharded=True))
    names = [name for told in answers for name in told.gradients]
    assert sorted(names) == sorted(whole)
    sizes = [sum(gradient.numel() for gradient in told.gradients.values()) for told in answers]
    assert max(sizes) - min(sizes) <= max(gradient.numel() for gradient in whole.values())
