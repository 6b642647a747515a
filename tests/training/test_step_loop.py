"""The step loop: bad steps move nothing, spikes are named, and a killed training ends with the bits of an undisturbed one."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NumberedRows, tiny_training

from sapience.model.batch import Microbatch, prediction_labels
from sapience.model.transformer import Transformer
from sapience.ops.cross_entropy import IGNORE
from sapience.parallel.executor import PlainLoop, Sums
from sapience.recipe import UserError
from sapience.training.device import Readout
from sapience.training.loop import Saving, Training, tail_violations
from sapience.training.objective import NextTokens


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it is written."""


class Spoiled(PlainLoop):
    """Gradients of chosen steps are not finite."""

    bad_steps: frozenset[int] = frozenset()
    value = float("nan")

    def __init__(self, model: Transformer, objective: NextTokens) -> None:
        super().__init__(model, objective)
        self.step = 0

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        sums = super().forward_backward(microbatches, denominator)
        self.step += 1
        if self.step in self.bad_steps:
            gradient = self.model.head.weight.grad
            assert gradient is not None
            gradient[0, 0] = self.value
        return sums


def spoiled(steps: set[int], value: float = float("nan")) -> type[Spoiled]:
    return type("SpoiledHere", (Spoiled,), {"bad_steps": frozenset(steps), "value": value})


class Told:
    """An executor that reports the losses it is told to, and moves nothing."""

    def __init__(self, model: Transformer, losses: Sequence[float]) -> None:
        self.model, self.losses, self.step = model, losses, 0

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss = self.losses[self.step]
        self.step += 1
        loads = torch.ones(len(self.model.gates()), self.model.config.n_routed_experts)
        return Sums({"loss": torch.tensor(loss * denominator, dtype=torch.float64)}, loads)


def state_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    timing = ("seconds", "tokens_per_second")
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timing} for line in lines]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_with_gradients_that_are_not_finite_moves_nothing_and_is_counted(value: float, tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=6, executor=spoiled({3}, value))
    states: list[dict[str, torch.Tensor]] = []
    training.on_step = lambda step, figures: states.append(state_of(training))
    counters = training.run()
    assert equal(states[1], states[2]) and not equal(states[0], states[1]) and not equal(states[2], states[3])
    assert (counters.skipped, counters.skipped_in_a_row, counters.step) == (1, 0, 6)
    [bad] = [r for r in records(tmp_path, "metrics") if r["skipped_now"]]
    assert bad["step"] == 3 and bad["gradient_norm"] is None and bad["skipped"] == 1


def test_a_skipped_step_is_as_if_its_update_had_not_been(tmp_path: Path) -> None:
    """Neither momentum nor AdamW's step count moves: the steps after it equal those of a loop without it."""
    moments = []
    for name, bad in (("with", {3}), ("without", set())):
        training = tiny_training(tmp_path / name, steps=6, executor=spoiled(bad))
        if not bad:
            training.plan = [*training.plan[:2], *training.plan[3:]]
        training.run()
        moments.append((state_of(training), training.optimizer.tensors()))
    assert equal(moments[0][0], moments[1][0]) and equal(moments[0][1], moments[1][1])


def test_twenty_bad_steps_in_a_row_end_the_training_with_a_sentence(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=40, executor=spoiled(set(range(5, 50))))
    with pytest.raises(UserError, match=r"20 steps in a row.*step 24.*lower the learning rate"):
        training.run()


def test_nineteen_bad_steps_do_not(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=30, executor=spoiled(set(range(5, 24))))
    counters = training.run()
    assert (counters.skipped, counters.skipped_in_a_row) == (19, 0)


def test_a_loss_spike_is_named_and_noise_is_not(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    losses = (3.0 + 0.1 * torch.randn(120, generator=generator, dtype=torch.float64)).tolist()
    losses[89] = 6.0
    training = tiny_training(tmp_path, steps=120, save_every=200, executor=lambda model, objective: Told(model, losses))
    counters = training.run()
    assert counters.spikes == 1
    assert [r["step"] for r in records(tmp_path, "metrics") if r["spike"]] == [90]


def test_a_loss_that_is_not_finite_neither_breaks_the_log_nor_the_mean(tmp_path: Path) -> None:
    losses = [3.0, float("nan"), float("inf"), *[3.0] * 3]
    training = tiny_training(tmp_path, steps=6, executor=lambda model, objective: Told(model, losses))
    counters = training.run()
    assert math.isfinite(counters.loss_mean)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_the_loss_falls_and_the_figures_are_per_token(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=60, save_every=60)
    training.run()
    lines = records(tmp_path, "metrics")
    assert lines[0]["loss"] == pytest.approx(math.log(61), rel=0.2)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"] and lines[-1]["mtp_loss"] < lines[0]["mtp_loss"]
    assert [line["step"] for line in lines] == [1, *range(2, 61, 2)]
    assert training.counters.tokens == lines[-1]["tokens"] < sum(p.rows for p in training.plan) * 12


def test_two_prediction_depths_both_learn(tmp_path: Path) -> None:
    """Depth k's own loss over labelled places, measured apart; the second reads the first's states."""
    training = tiny_training(tmp_path, steps=60, save_every=60, num_nextn_predict_layers=2)
    [batch] = NumberedRows(61, 12, 4).microbatches(10_000, 4)

    def depth_losses() -> list[float]:
        with torch.no_grad():
            predictions = training.model(batch).predictions
        losses = []
        for depth, hidden in enumerate(predictions, start=1):
            labels = prediction_labels(batch, depth)
            logits = training.model.logits(hidden).flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE)
            losses.append(float(loss.detach()))
        return losses

    before = depth_losses()
    training.run()
    assert len(before) == 2
    assert all(after < 0.9 * early for early, after in zip(before, depth_losses(), strict=True))


def test_a_softmax_gate_learns_by_the_balance_loss_and_its_bias_stays_zero(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=30, save_every=30, scoring_func="softmax", norm_topk_prob=False)
    training.run()
    lines = records(tmp_path, "metrics")
    assert lines[-1]["loss"] < lines[0]["loss"] and lines[-1]["balance_loss"] > 0
    gates = training.model.gates()
    assert gates and all(not block.gate.bias_E.any() for block in gates)


def test_the_streams_hash_is_that_of_every_row_in_order(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=5)
    rows = NumberedRows(training.model.config.vocab_size, 12, 1)
    expected = ""
    for plan in training.plan:
        rows.microbatches(plan.first_row, plan.rows)
        expected = rows.chain(expected)
    assert training.run().stream == expected
    lines = [plan.first_row for plan in training.plan]
    assert lines == [sum(plan.rows for plan in training.plan[:i]) for i in range(5)]


def test_tail_violations_are_of_the_loads_summed_over_the_last_tenth(tmp_path: Path) -> None:
    training = tiny_training(tmp_path, steps=20)
    training.log_every = 1
    counters = training.run()
    loads = [torch.tensor(r["loads"]) for r in records(tmp_path, "loads")][-2:]
    summed = loads[0] + loads[1]
    expected = [float(layer.max() / layer.mean() - 1) for layer in summed]
    assert tail_violations(counters) == pytest.approx(expected, rel=1e-6)


def run_with_kills(folder: Path, kills: list[int], lag: int = 0, **settings: Any) -> Training:
    """Each kill strikes after its step, before anything of that moment is saved; a new object takes up what is there."""
    for kill in kills:
        training = tiny_training(folder, **settings)
        training.lag = lag
        training.resume()

        def strike(step: int, figures: dict[str, float], at: int = kill) -> None:
            if step >= at:
                raise Killed

        training.on_step = strike
        with pytest.raises(Killed):
            training.run()
    training = tiny_training(folder, **settings)
    training.lag = lag
    training.resume()
    training.run()
    return training


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kills", [[1], [4], [7], [3, 5, 5, 9, 12]], ids=str)
def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(
    optimizer: str, kills: list[int], lag: int, tmp_path: Path
) -> None:
    whole = tiny_training(tmp_path / "whole", optimizer=optimizer)
    whole.run()
    pieces = run_with_kills(tmp_path / "pieces", kills, lag, optimizer=optimizer)
    assert equal(state_of(whole), state_of(pieces))
    assert equal(whole.optimizer.tensors(), pieces.optimizer.tensors())
    assert whole.counters.stream == pieces.counters.stream != ""
    for name in ("tokens", "skipped", "spikes", "loss_mean", "loss_square", "tail_loads"):
        assert getattr(whole.counters, name) == getattr(pieces.counters, name)
    for name in ("metrics", "loads"):
        assert records(tmp_path / "whole", name) == records(tmp_path / "pieces", name)


@pytest.mark.parametrize("lag", [1, 3])
def test_figures_read_later_are_the_same_figures(lag: int, tmp_path: Path) -> None:
    """Steps in flight while older ones are counted, a skipped one among them: the same weights, log and stream."""
    whole, late = (tiny_training(tmp_path / name, executor=spoiled({5})) for name in ("whole", "late"))
    late.lag = lag
    whole.run()
    late.run()
    assert equal(state_of(whole), state_of(late)) and whole.counters.stream == late.counters.stream
    assert whole.counters.skipped == late.counters.skipped == 1
    for name in ("metrics", "loads"):
        assert records(tmp_path / "whole", name) == records(tmp_path / "late", name)


def test_nothing_goes_further_than_where_somebody_looks(tmp_path: Path) -> None:
    states: dict[int, dict[str, torch.Tensor]] = {}
    training = tiny_training(tmp_path / "whole")
    training.on_step = lambda step, figures: states.update({step: state_of(training)})
    training.run()
    late = tiny_training(tmp_path / "late")
    late.lag, late.pauses = 2, frozenset({3, 7})
    seen: dict[int, dict[str, torch.Tensor]] = {}
    late.on_step = lambda step, figures: seen.update({step: state_of(late)})
    late.run()
    assert list(seen) == list(range(1, 13))
    assert all(equal(seen[step], states[step]) for step in (3, 7, 4, 8, 12))
    assert not equal(seen[1], states[1])


def test_what_is_noted_before_the_first_step_is_there_once(tmp_path: Path) -> None:
    """Killed before the first checkpoint, a stage measures its untrained model again."""
    for kill in (1, 3, None):
        training = tiny_training(tmp_path)
        if training.resume() == 0:
            training.log.write("evaluations", {"step": 0, "bits_per_byte": 8.0})

        def strike(step: int, figures: dict[str, float], at: int | None = kill) -> None:
            if step == at:
                raise Killed

        training.on_step = strike
        if kill is None:
            training.run()
        else:
            with pytest.raises(Killed):
                training.run()
    assert records(tmp_path, "evaluations") == [{"step": 0, "bits_per_byte": 8.0}]


def test_a_second_training_of_a_stage_leaves_the_log_of_the_first_alone(tmp_path: Path) -> None:
    first = tiny_training(tmp_path, steps=4)
    first.run()
    for kill in (2, None):
        second = tiny_training(tmp_path, steps=4)
        second.saving = Saving(tmp_path / "checkpoints-2", 4, 2)
        second.step_offset = 4
        second.resume()
        if kill is not None:
            second.on_step = lambda step, figures: (_ for _ in ()).throw(Killed) if step == 2 else None
            with pytest.raises(Killed):
                second.run()
        else:
            second.run()
    assert [line["step"] for line in records(tmp_path, "metrics")] == [1, 2, 4, 5, 6, 8]


def test_resuming_a_finished_training_does_nothing(tmp_path: Path) -> None:
    whole = tiny_training(tmp_path)
    whole.run()
    again = tiny_training(tmp_path, model_seed=5)
    assert again.resume() == 12
    again.run()
    assert equal(state_of(whole), state_of(again))


def test_the_same_seed_twice_is_the_same_training_and_another_seed_is_not(tmp_path: Path) -> None:
    states = []
    for index, seed in enumerate((0, 0, 1)):
        training = tiny_training(tmp_path / str(index), model_seed=seed)
        training.run()
        states.append(state_of(training))
    assert equal(states[0], states[1]) and not equal(states[0], states[2])


def test_the_cut_into_micro_batches_changes_rounding_only(tmp_path: Path) -> None:
    results = []
    for size in (1, 4):
        training = tiny_training(tmp_path / str(size), steps=4, micro_rows=size)
        training.run()
        results.append((state_of(training), training.counters.stream))
    assert results[0][1] == results[1][1]
    for name, value in results[0][0].items():
        assert torch.allclose(value, results[1][0][name], atol=2e-4), name


def test_a_tied_head_trains_and_resumes(tmp_path: Path) -> None:
    whole = tiny_training(tmp_path / "whole", tie_word_embeddings=True)
    whole.run()
    pieces = run_with_kills(tmp_path / "pieces", [6], tie_word_embeddings=True)
    assert equal(state_of(whole), state_of(pieces))
    assert pieces.model.head.weight is pieces.model.embedding.weight


def test_a_resumed_training_refuses_another_stream_than_it_was_trained_on(tmp_path: Path) -> None:
    training = tiny_training(tmp_path)
    training.run()
    again = tiny_training(tmp_path)
    assert again.resume() == len(again.plan)
    other = tiny_training(tmp_path)
    draw = other.source.microbatches
    other.source.microbatches = lambda first_row, rows: draw(first_row + 1, rows)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="token stream"):
        other.resume()


def test_figures_come_back_unchanged() -> None:
    figures = torch.tensor(1.5), torch.arange(3)
    assert all(torch.equal(*pair) for pair in zip(Readout(*figures).wait(), figures, strict=True))
