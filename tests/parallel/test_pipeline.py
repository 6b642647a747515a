"""Pipelines on several processes give what one process gives: losses, gradients, weights, balance biases, over many steps."""

from dataclasses import replace

import pytest
import torch
from processes import pool
from tiny_models import tiny_config, tiny_model
from trained_steps import Layout, Task, compare, task_of, trained

from sapience.parallel.division import divide, stages_of
from sapience.parallel.messages import Message, received, sent
from sapience.parallel.schedule import Impossible
from sapience.parallel.schedules import SCHEDULES
from sapience.parallel.stages import Absent, keep


@pytest.mark.parametrize("name", SCHEDULES)
def test_twenty_steps_are_those_of_one_process(name: str) -> None:
    compare(task_of(), Layout(2, name), 1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_four_ranks(name: str) -> None:
    compare(task_of(steps=3, microbatches=8), Layout(4, name), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_twenty_steps_of_four_ranks(name: str) -> None:
    compare(task_of(microbatches=8), Layout(4, name), 1e-9)


@pytest.mark.parametrize("name", ["zb1p", "dualpipe"])
def test_float32(name: str) -> None:
    compare(task_of(dtype=torch.float32, steps=2), Layout(2, name), 1e-5)


@pytest.mark.parametrize("microbatches", [8, 12, 20])
def test_dualpipes_losses_have_the_bits_of_the_plain_loop(microbatches: int) -> None:
    compare(task_of(steps=1, microbatches=microbatches), Layout(4, "dualpipe"), 1e-12)


@pytest.mark.parametrize("name", ["1f1b", "dualpipe"])
@pytest.mark.parametrize("changes", [
    {"tie_word_embeddings": True}, {"num_nextn_predict_layers": 0}, {"num_nextn_predict_layers": 2},
    {"first_k_dense_replace": 3}, {"scoring_func": "softmax", "norm_topk_prob": False},
], ids=str)  # fmt: skip
def test_other_models(changes: dict[str, object], name: str) -> None:
    compare(Task(tiny_config(num_hidden_layers=4, **changes), steps=2), Layout(2, name), 1e-9)


def test_muon_in_a_pipeline() -> None:
    compare(task_of(layers=4, steps=3, optimizer="muon"), Layout(2, "zb1p"), 1e-9)


def test_a_number_of_micro_batches_that_a_schedule_cannot_have_is_refused_by_all() -> None:
    with pytest.raises(RuntimeError, match="at least 4 micro-batches"):
        pool(2).run(trained, replace(task_of(layers=4, steps=1), microbatches=2), Layout(2, "dualpipe"))


def test_layers_are_divided_so_that_the_largest_stage_is_small() -> None:
    config = tiny_config(num_hidden_layers=9)
    assert divide(config, 3, [2, 3, 4]) == (range(2), range(2, 5), range(5, 9))
    for stages in range(1, 10):
        division = divide(config, stages)
        assert [layer for layers in division for layer in layers] == list(range(9))
        assert all(division)
    assert len(divide(config, 3)[-1]) < len(divide(config, 3)[0])  # head and prediction module weigh something
    for count, given in ((10, None), (2, [9]), (2, [9, 0]), (2, [4, 4])):
        with pytest.raises(Impossible):
            divide(config, count, given)


def test_a_rank_keeps_its_stages_and_nothing_else() -> None:
    whole = tiny_model(tiny_config(num_hidden_layers=4))
    sizes = {name: p.numel() for name, p in whole.named_parameters()}
    division = divide(whole.config, 2, [2, 2])
    first = keep(tiny_model(tiny_config(num_hidden_layers=4)), [0], division)
    last = keep(tiny_model(tiny_config(num_hidden_layers=4)), [1], division)
    held = [{name for name, _ in part.named_parameters()} for part in (first, last)]
    assert held[0] | held[1] == set(sizes)
    assert held[0] & held[1] == {"embedding.weight"}
    assert isinstance(first.head, Absent)
    assert [number for number, _ in first.numbered_gates()] == [0]
    assert [number for number, _ in last.numbered_gates()] == [1, 2, 3]


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_is_sent_is_received_in_the_same_order(name: str) -> None:
    schedule = SCHEDULES[name](4, 8)
    leaving = [sent(schedule, rank) for rank in range(4)]
    for rank in range(4):
        for sender, messages in received(schedule, rank).items():
            assert messages == [message for to, message in leaving[sender] if to == rank]
    everything = [message for messages in leaving for _, message in messages]
    expected = {
        Message(kind, stage, m)  # type: ignore[arg-type]
        for m in range(8)
        for kind, stages in (("hidden", range(1, schedule.stages)), ("gradient", range(schedule.stages - 1)))
        for stage in stages
    }
    assert len(everything) == len(set(everything))
    assert set(everything) == expected
    assert sorted({stage for rank in range(4) for stage in stages_of(schedule, rank)}) == list(range(schedule.stages))
