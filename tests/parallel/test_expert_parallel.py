"""Experts spread over ranks give what one process gives, alone and with pipelines and ZeRO-1."""

import pytest
import torch
from processes import pool
from tiny_models import tiny_config
from trained_steps import Layout, Task, compare, task_of, trained


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
