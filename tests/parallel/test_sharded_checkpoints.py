"""What ranks write between them any other layout reads, to the last bit; torn ones are passed over; training does not wait."""

import errno
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from torch import Tensor
from trained_steps import Layout, Task, task_of

from sapience.parallel.executor import PlainLoop
from sapience.parallel.spread import Spread, spread
from sapience.recipe.optimization import OptimizerSection
from sapience.training import sharded_checkpoint
from sapience.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from sapience.training.loop import update_biases
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.sharded_checkpoint import ShardedCheckpoints

HALF = 3


class Trainer:
    """Trains some steps in a layout, or alone."""

    def __init__(self, task: Task, layout: Layout | None) -> None:
        self.task = task
        self.model = tiny_model(task.config, dtype=task.dtype)
        objective = NextTokens(0.3, 1e-2)
        self.executor: Any = PlainLoop(self.model, objective)
        self.spread: Spread | None = None
        if layout is not None:
            self.spread = spread(self.model, objective, layout.mesh, layout.section, task.microbatches)
            self.executor = self.spread.executor
        section = OptimizerSection(clip=0.5, epsilon=1e-5, name=task.optimizer)  # type: ignore[arg-type]
        self.optimizer = OptimizerSet(self.model, section, None if layout is None else self.executor)

    def train(self, steps: range) -> list[float]:
        losses = []
        for step in steps:
            batches = [
                random_batch(self.task.config, 2, 17, seed=1000 * step + m) for m in range(self.task.microbatches)
            ]
            sums = self.executor.forward_backward(batches, labelled_tokens(batches))
            self.optimizer.step(1e-3)
            update_biases(self.model, sums, 1e-2)
            losses.append(float(sums.values["loss"]))
        return losses

    def take(self, checkpoint: Checkpoint | None) -> None:
        assert checkpoint is not None and checkpoint.step == HALF and checkpoint.state == {"tokens": 7}
        self.model.load_state_dict(checkpoint.weights)
        self.optimizer.load(checkpoint.optimizer)


def first_half(task: Task, layout: Layout | None, folder: Path) -> dict[str, Tensor]:
    """Train, keep a checkpoint, change the weights at once; what the weights were."""
    trainer = Trainer(task, layout)
    trainer.train(range(HALF))
    weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    if trainer.spread is None:
        save_checkpoint(folder, HALF, weights, trainer.optimizer.tensors(), {"tokens": 7}, 2)
        return weights
    kept = ShardedCheckpoints(folder, 2, trainer.spread)
    kept.save(HALF, trainer.model.state_dict(), trainer.optimizer.tensors(), {"tokens": 7})
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(-1)
    kept.wait()
    return weights


def second_half(task: Task, layout: Layout | None, folder: Path) -> list[float]:
    trainer = Trainer(task, layout)
    if trainer.spread is None:
        trainer.take(latest_checkpoint(folder))
    else:
        trainer.take(ShardedCheckpoints(folder, 2, trainer.spread).latest())
    return trainer.train(range(HALF, 2 * HALF))


MIXED = Layout(2, "dualpipe", data=2, expert=2, sharded=True)
TASK = task_of(layers=5, microbatches=8)


def test_another_layout_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    expected = Trainer(TASK, None).train(range(2 * HALF))[HALF:]
    written = pool(4).run(first_half, TASK, MIXED, tmp_path)
    whole = latest_checkpoint(tmp_path)
    assert whole is not None
    for rank, weights in enumerate(written):
        for key, value in weights.items():
            there = whole.weights[key]
            if ".experts." in key:
                there = there.chunk(2)[MIXED.mesh.replica(rank) % 2]
            assert torch.equal(value, there), key
    assert not list(tmp_path.glob(".building*"))
    for layout in (
        None, MIXED, Layout(2, "zb1p", expert=1), Layout(data=4, expert=4), Layout(data=2, sharded=True, context=2),
        replace(MIXED, sharded=False),
    ):  # fmt: skip
        ranks = 0 if layout is None else layout.mesh.ranks
        answers = pool(ranks).run(second_half, TASK, layout, tmp_path) if ranks else [second_half(TASK, None, tmp_path)]
        for losses in answers:
            assert losses == pytest.approx(expected, rel=1e-9), layout


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_eight_go_on_where_four_or_one_were(tmp_path: Path, optimizer: str) -> None:
    task = replace(TASK, optimizer=optimizer, microbatches=16)
    expected = Trainer(task, None).train(range(2 * HALF))[HALF:]
    pool(4).run(first_half, task, MIXED, tmp_path / "4")
    first_half(task, None, tmp_path / "1")
    for layout in (
        Layout(4, "dualpipe", data=2, expert=2),
        Layout(2, "1f1b", data=4, expert=4, context=2, sharded=True),
    ):
        for folder in ("4", "1"):
            for losses in pool(8).run(second_half, task, layout, tmp_path / folder):
                assert losses == pytest.approx(expected, rel=1e-9), layout


@pytest.mark.parametrize("sharded", [False, True])
def test_what_one_process_wrote_is_read_by_many(sharded: bool, tmp_path: Path) -> None:
    task = task_of(layers=3)
    expected = Trainer(task, None).train(range(2 * HALF))[HALF:]
    first_half(task, None, tmp_path)
    layout = Layout(data=2, expert=2, sharded=sharded)
    for losses in pool(2).run(second_half, task, layout, tmp_path):
        assert losses == pytest.approx(expected, rel=1e-9)


def two_checkpoints(layout: Layout, folder: Path) -> None:
    trainer = Trainer(SMALL, layout)
    trainer.train(range(1))
    assert trainer.spread is not None
    kept = ShardedCheckpoints(folder, 2, trainer.spread)
    for step in (1, 2, 3):
        kept.save(step, trainer.model.state_dict(), trainer.optimizer.tensors(), {"tokens": step})
    kept.wait()


def latest_step(layout: Layout, folder: Path) -> int:
    trainer = Trainer(SMALL, layout)
    assert trainer.spread is not None
    found = ShardedCheckpoints(folder, 2, trainer.spread).latest()
    return 0 if found is None else found.step


SMALL, PAIR = task_of(layers=2), Layout(data=2, expert=2, sharded=True)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pairs")
    pool(2).run(two_checkpoints, PAIR, folder)
    assert sorted(each.name for each in folder.iterdir()) == ["step-0000002", "step-0000003"]
    return folder


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata", "state.json"])
@pytest.mark.parametrize("harm", [_flip, _cut, Path.unlink], ids=["flipped", "cut", "missing"])
def test_a_torn_checkpoint_is_passed_over(pairs: Path, name: str, harm: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(pairs, folder)
    if (name, harm) == ("state.json", _flip):
        (folder / "step-0000003" / name).write_text("{}")
    else:
        harm(folder / "step-0000003" / name)
    shutil.copytree(folder / "step-0000002", folder / ".building-0000004")
    assert pool(2).run(latest_step, PAIR, folder) == [2, 2]
    whole = latest_checkpoint(folder)
    assert whole is not None and whole.step == 2
    for each in (folder / "step-0000002").iterdir():
        each.unlink()
    assert pool(2).run(latest_step, PAIR, folder) == [0, 0] and latest_checkpoint(folder) is None


def full_disk(layout: Layout, folder: Path) -> str:
    """The second rank's disk is full."""
    trainer = Trainer(SMALL, layout)
    trainer.train(range(1))
    assert trainer.spread is not None
    kept = ShardedCheckpoints(folder, 2, trainer.spread)
    kept.save(1, trainer.model.state_dict(), trainer.optimizer.tensors(), {})
    kept.wait()
    from torch.distributed.checkpoint import FileSystemWriter

    write = FileSystemWriter.write_data
    if not trainer.spread.writes:
        FileSystemWriter.write_data = _no_space  # type: ignore[method-assign]
    try:
        kept.save(2, trainer.model.state_dict(), trainer.optimizer.tensors(), {})
        kept.wait()
    except OSError as error:
        return str(error)
    finally:
        FileSystemWriter.write_data = write  # type: ignore[method-assign]
    return "written"


def _no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_on_every_rank_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    for said in pool(2).run(full_disk, PAIR, tmp_path):
        assert "No space left on device" in said
    assert pool(2).run(latest_step, PAIR, tmp_path) == [1, 1]


def slow_writing(layout: Layout, folder: Path) -> list[bool]:
    """Whether a checkpoint is there: while the disk is slow and training goes on, and afterwards."""
    trainer = Trainer(SMALL, layout)
    trainer.train(range(1))
    assert trainer.spread is not None
    kept, go_on, write = (
        ShardedCheckpoints(folder, 2, trainer.spread),
        threading.Event(),
        sharded_checkpoint.write_parts,
    )

    def slowly(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return write(*arguments)

    sharded_checkpoint.write_parts = slowly  # type: ignore[assignment]
    try:
        kept.save(1, trainer.model.state_dict(), trainer.optimizer.tensors(), {})
        trainer.train(range(1, 3))
        found = [(folder / "step-0000001").exists()]
        go_on.set()
        kept.wait()
    finally:
        sharded_checkpoint.write_parts = write
    return [*found, (folder / "step-0000001").exists()]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    assert pool(2).run(slow_writing, PAIR, tmp_path) == [[False, True]] * 2


def passed_on(task: Task, layout: Layout | None, source: Path, folder: Path) -> dict[str, Tensor] | None:
    """Take a checkpoint and write it again: the whole model's weights, on the rank that writes."""
    trainer = Trainer(task, layout)
    if trainer.spread is None:
        trainer.take(latest_checkpoint(source))
        weights = trainer.model.state_dict()
        save_checkpoint(folder, HALF, weights, trainer.optimizer.tensors(), {"tokens": 7}, 2)
        return weights
    trainer.take(ShardedCheckpoints(source, 2, trainer.spread).latest())
    kept = ShardedCheckpoints(folder, 2, trainer.spread)
    kept.save(HALF, trainer.model.state_dict(), trainer.optimizer.tensors(), {"tokens": 7})
    kept.wait()
    return trainer.spread.weights()


def test_rows_of_weights_travel_from_layout_to_layout_without_losing_a_bit(tmp_path: Path) -> None:
    """Rows that cannot be divided evenly, some of them on no rank."""
    task = Task(tiny_config(num_hidden_layers=2, q_lora_rank=9, kv_lora_rank=5, n_routed_experts=6, n_group=3))
    cut = Layout(data=4, expert=2, sharded=True, weights=True)
    expected = Trainer(task, None).train(range(2 * HALF))[HALF:]
    pool(4).run(first_half, task, cut, tmp_path / "0")
    first = latest_checkpoint(tmp_path / "0")
    assert first is not None
    for losses in pool(4).run(second_half, task, cut, tmp_path / "0"):
        assert losses == pytest.approx(expected, rel=1e-9)
    pipelines = Layout(2, "1f1b", data=2, expert=2, sharded=True)
    way = [replace(cut, data=2), None, replace(cut, expert=1, sharded=False), pipelines]
    for number, layout in enumerate(way):
        source, folder = tmp_path / str(number), tmp_path / str(number + 1)
        if layout is None:
            weights = passed_on(task, None, source, folder)
        else:
            weights = pool(layout.mesh.ranks).run(passed_on, task, layout, source, folder)[0]
        there = latest_checkpoint(folder)
        assert there is not None and weights is not None
        for ours, theirs in (
            (weights, first.weights),
            (there.weights, first.weights),
            (there.optimizer, first.optimizer),
        ):
            assert ours.keys() == theirs.keys()
            assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == [], layout
    assert second_half(task, None, folder) == pytest.approx(expected, rel=1e-9)
