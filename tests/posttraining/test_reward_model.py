"""The score stands at the last real token; loss and gradient equal a literal loop; a killed training ends the same."""

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet_progress import quiet
from safetensors.torch import save_file
from tiny_models import tiny_config, tiny_model

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.tokenizer import train_tokenizer
from sapience.parallel.executor import PlainLoop
from sapience.posttraining.preference_training import (
    PreferenceTraining,
    RenderedPair,
    pair_batches,
    pairs_of_step,
    preference_rate,
    steps_per_epoch,
)
from sapience.posttraining.reward_model import (
    HEAD_FILE,
    HEAD_NAME,
    PreferenceObjective,
    RewardModel,
    ScoredBatch,
    ScoredRow,
    load_reward_model,
    preference_loss,
    save_reward_model,
    scored_batch,
    scored_row,
)
from sapience.recipe.errors import UserError
from sapience.recipe.reward import RewardSection
from sapience.training.device import placed
from sapience.training.metrics import MetricsLog
from sapience.training.optimizer import OptimizerSet

TOKENIZER = train_tokenizer(["the cat sat on the mat and ran away. 你好，世界。" * 50], 300, 1)
CHAT = ChatFormat(TOKENIZER)
CONFIG = tiny_config(vocab_size=TOKENIZER.vocab_size)
PAD = TOKENIZER.pad_id


class Killed(Exception):
    """Stands for a signal: nothing catches it."""


def reward_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> RewardModel:
    """Random weights, with a head large enough that scores differ."""
    model = RewardModel(tiny_model(tiny_config(vocab_size=TOKENIZER.vocab_size, **changes), seed, dtype), seed)
    with torch.no_grad():
        model.score_head.weight.mul_(30)
    return model


def random_pairs(count: int, seed: int = 0) -> list[RenderedPair]:
    """Conversations of different lengths; the better answer has more low tokens, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, length: int) -> list[int]:
        return torch.randint(low, high, (length,), generator=generator).tolist()

    pairs = []
    for _ in range(count):
        prompt = draw(3, 200, int(torch.randint(2, 9, (1,), generator=generator)))
        lengths = torch.randint(2, 9, (2,), generator=generator).tolist()
        rows = ([*prompt, *draw(3, 100, lengths[0]), 1], [*prompt, *draw(100, 200, lengths[1]), 1])
        pairs.append((ScoredRow(rows[0], len(prompt)), ScoredRow(rows[1], len(prompt))))
    return pairs


def talk(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


TALKS = [talk("the cat?", "on the mat."), talk("你好", "你好，世界。" * 4), talk("ran", "a"), talk("the cat?", "away")]


def test_a_score_is_the_last_hidden_state_times_the_head() -> None:
    model = reward_model(dtype=torch.float64)
    talks = [*TALKS, TALKS[1], *TALKS]
    found = model.scores(CHAT, talks, batch=3)
    for messages, score in zip(talks, found, strict=True):
        tokens = CHAT.conversation(messages).tokens
        assert tokens[-1] == TOKENIZER.eos_id
        state = model.transformer.hidden(torch.tensor([tokens]))[0, len(tokens) - 1]
        assert score == pytest.approx(float((state @ model.score_head.weight[0]).detach()), rel=1e-9)
    assert len(set(found)) == len(TALKS)


def test_rows_are_read_once_and_beside_rows_of_like_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = reward_model(), []
    forward = RewardModel.forward

    def noted(self: RewardModel, batch: ScoredBatch) -> torch.Tensor:
        shapes.append((batch.tokens_BT.shape, int(batch.lengths_B.min())))
        return forward(self, batch)

    monkeypatch.setattr(RewardModel, "forward", noted)
    model.scores(CHAT, [talk("the cat?", "on the mat. " * n) for n in (1, 30, 2, 31, 1, 1, 3, 2, 30)], batch=3)
    assert sum(shape[0] for shape, _ in shapes) == 5
    assert all(shape[0] <= 3 and shape[1] <= 1.5 * shortest for shape, shortest in shapes)
    assert len(shapes) <= 4


@pytest.mark.parametrize("pad", [PAD, TOKENIZER.eos_id, 7], ids=["pad", "eos", "a word"])
def test_padding_changes_no_score_whatever_stands_there(pad: int) -> None:
    model = reward_model(dtype=torch.float64)
    rows = [scored_row(CHAT, messages) for messages in TALKS]
    alone = torch.cat([model(scored_batch([row], PAD)) for row in rows])
    torch.testing.assert_close(model(scored_batch(rows, pad)), alone, rtol=1e-9, atol=1e-12)


def test_the_prediction_modules_and_the_head_for_words_take_no_part() -> None:
    model = reward_model()
    PlainLoop(model.transformer, PreferenceObjective(model, 0.01)).forward_backward(
        pair_batches(random_pairs(4), 4, PAD), 4
    )
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {
        name
        for name, _ in model.named_parameters()
        if name.startswith("transformer.predictions.") or name == "transformer.head.weight"
    }
    assert any("predictions" in name for name in without)


def test_the_loss_is_bradley_terry_with_a_centre() -> None:
    chosen, rejected = [1.5, -0.25, 300.0], [0.5, 1.0, -300.0]
    expected = sum(
        math.log1p(math.exp(r - c)) + 0.3 * ((c + r) / 2) ** 2 for c, r in zip(chosen, rejected, strict=True)
    )
    values = (torch.tensor(part, dtype=torch.float64) for part in (chosen, rejected))
    assert float(preference_loss(*values, 0.3)) == pytest.approx(expected)
    far = torch.tensor([-400.0]), torch.tensor([400.0])
    assert float(preference_loss(*far, 0.0)) == pytest.approx(800.0)


def literal_score(model: RewardModel, row: ScoredRow) -> torch.Tensor:
    """The last hidden state times the head, and the answer's mean log-probability, token by token."""
    hidden = model.transformer.hidden(torch.tensor([row.tokens]))[0]
    score = hidden[-1] @ model.score_head.weight[0]
    said = [
        model.transformer.logits(hidden[place - 1]).log_softmax(-1)[row.tokens[place]]
        for place in range(row.start, len(row))
    ]
    return score + model.likelihood * sum(said) / len(said) if model.likelihood else score


@pytest.mark.parametrize("likelihood", [0.0, 0.7])
def test_loss_and_gradient_equal_a_literal_loop_and_do_not_depend_on_micro_batches(likelihood: float) -> None:
    pairs = random_pairs(7)
    model = reward_model(dtype=torch.float64)
    model.likelihood = likelihood
    parameters = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    margins = []
    for pair in pairs:
        scores = [literal_score(model, row) for row in pair]
        margin = scores[0] - scores[1]
        total = total + (1 + (-margin).exp()).log() + 0.2 * ((scores[0] + scores[1]) / 2) ** 2
        margins.append(float(margin.detach()))
    expected = torch.autograd.grad(total / 7, list(parameters.values()), allow_unused=True)
    for micro_pairs in (1, 3, 7):
        batches = pair_batches(pairs, micro_pairs, PAD)
        sums = PlainLoop(model.transformer, PreferenceObjective(model, 0.2)).forward_backward(batches, 7)
        assert float(sums.values["loss"]) == pytest.approx(float(total.detach()), rel=1e-9)
        assert float(sums.values["accuracy"]) == sum(m > 0 for m in margins)
        assert float(sums.values["margin"]) == pytest.approx(sum(margins), rel=1e-9)
        for (name, parameter), wanted in zip(parameters.items(), expected, strict=True):
            assert (parameter.grad is None) == (wanted is None), name
            if wanted is not None:
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-6, atol=1e-9, msg=name)
            parameter.grad = None


@pytest.mark.parametrize("likelihood", [0.0, 0.7])
def test_a_step_in_bfloat16_is_near_float32_with_wide_scores_and_gradients(likelihood: float) -> None:
    """Every token goes to every expert, so that rounding cannot change where; 1 - 2<x,y>/(x²+y²) of all gradients together."""
    found = []
    for precision in ("fp32", "bf16"):
        model = reward_model(n_group=1, topk_group=1, n_routed_experts=4, num_experts_per_tok=4)
        model.likelihood = likelihood
        section = RewardSection.model_validate({"device": "cpu", "precision": precision})
        placed(model.transformer, section)
        [batch] = pair_batches(random_pairs(24), 24, PAD)
        assert model(batch).dtype == torch.float32
        sums = PlainLoop(model.transformer, PreferenceObjective(model, 0.01)).forward_backward([batch], 24)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(p.dtype == torch.float32 for p in (*model.parameters(), *gradients.values()))
        found.append((float(sums.values["loss"]) / 24, gradients))
    (exact, wide), (near, narrow) = found
    assert near == pytest.approx(exact, rel=0.01) and near != exact
    assert narrow.keys() == wide.keys()
    ours, theirs = (torch.cat([g.flatten() for g in all_.values()]).double() for all_ in (narrow, wide))
    assert float(1 - 2 * (ours * theirs).sum() / (ours.square().sum() + theirs.square().sum())) < 0.02


def test_muon_leaves_the_head_to_adamw() -> None:
    model = reward_model()
    section = RewardSection.model_validate({"optimizer": {"name": "muon"}})
    adamw, muon = OptimizerSet(model, section.optimizer).optimizers
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    of_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert id(model.score_head.weight) in of_adamw - of_muon
    assert id(model.transformer.embedding.weight) in of_adamw - of_muon
    assert id(model.transformer.layers[0].attention.out.weight) in of_muon - of_adamw  # type: ignore[union-attr]


def test_every_epoch_sees_every_pair_once_in_an_order_of_its_own() -> None:
    steps = steps_per_epoch(23, 5)
    epochs = [[pairs_of_step(23, 5, 3, epoch * steps + step) for step in range(steps)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == list(range(23))
        assert {len(step) for step in epoch} == {4, 5}
    assert epochs[0] != epochs[1] != epochs[2]
    assert pairs_of_step(23, 5, 3, 7) != pairs_of_step(23, 5, 4, 7)


def test_the_rate_rises_and_falls_to_a_tenth() -> None:
    section = RewardSection(peak=2e-3, warmup=0.1)
    assert [preference_rate(section, share) for share in (0.05, 0.1, 0.55, 1 - 1e-9)] == pytest.approx(
        [1e-3, 2e-3, 2e-3 * 0.55, 2e-4]
    )


def training(folder: Path, model: RewardModel | None = None, **changes: Any) -> PreferenceTraining:
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "epochs": 3, "batch_pairs": 4, "micro_pairs": 3, "peak": 3e-3, "log_every": 1, "checkpoint_every": 2,
        "optimizer": {"name": "muon"},
    }  # fmt: skip
    section = RewardSection.model_validate(values | changes)
    return PreferenceTraining(model or reward_model(), random_pairs(14), section, 5, PAD, folder, MetricsLog(folder))


def test_a_killed_training_ends_with_the_same_bits_and_log(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole")
    done = whole.run(quiet)
    for kills in ((3,), (1, 6), (2, 9)):
        folder = tmp_path / "-".join(map(str, kills))
        folder.mkdir()
        (folder / "pairs.jsonl").write_text('{"kept": "你好"}\n')
        for kill in kills:
            interrupted = training(folder)
            write = interrupted.log.write

            def until(name: str, record: Any, kill: int = kill, write: Any = write) -> None:
                write(name, record)
                if record["step"] == kill:
                    raise Killed

            interrupted.log.write = until  # type: ignore[method-assign]
            with pytest.raises(Killed):
                interrupted.run(quiet)
        resumed = training(folder)
        again = resumed.run(quiet)
        assert (again.step, again.pairs, again.drawn) == (done.step, done.pairs, done.drawn) == (12, 42, done.drawn)
        for (name, one), other in zip(
            whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
        ):
            assert torch.equal(one, other), name
        logs = [[r | {"seconds": 0} for r in MetricsLog(f).read("metrics")] for f in (tmp_path / "whole", folder)]
        assert logs[0] == logs[1] and [r["step"] for r in logs[1]] == list(range(1, 13))
        assert (folder / "pairs.jsonl").read_text() == '{"kept": "你好"}\n'


def test_it_learns_what_pairs_say_and_scores_stay_around_zero(tmp_path: Path) -> None:
    run = training(tmp_path, epochs=20, batch_pairs=7, micro_pairs=7, peak=1e-2, checkpoint_every=100)
    run.run(quiet)
    records = MetricsLog(tmp_path).read("metrics")
    assert records[-1]["accuracy"] == 1.0 and records[-1]["loss"] < 0.3 * records[0]["loss"]
    assert all(set(r) >= {"loss", "accuracy", "margin", "gradient_norm", "learning_rate"} for r in records)
    predictions = reward_model().transformer.predictions.state_dict()
    for name, value in run.model.transformer.predictions.state_dict().items():
        assert torch.equal(value, predictions[name]), name


def test_steps_without_a_finite_gradient_are_counted_and_given_up(tmp_path: Path) -> None:
    model = reward_model()
    with torch.no_grad():
        model.transformer.norm.weight[3] = math.nan
    run = training(tmp_path, model, epochs=9)
    with pytest.raises(UserError, match=r"lower reward\.peak"):
        run.run(quiet)
    assert run.counters.skipped == run.counters.skipped_in_a_row == 20
    assert json.loads((tmp_path / "metrics.jsonl").read_text().split("\n")[0])["loss"] is None


def test_no_pairs_are_refused(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.pairs = []
    with pytest.raises(UserError, match="no pair to learn from"):
        run.run(quiet)


def test_a_saved_model_scores_the_same(tmp_path: Path) -> None:
    model = reward_model()
    model.likelihood = 0.5
    save_reward_model(model, TOKENIZER, tmp_path)
    assert load_reward_model(tmp_path).scores(CHAT, TALKS) == model.scores(CHAT, TALKS)
    assert "chat_template" in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    save_reward_model(reward_model(), TOKENIZER, tmp_path)
    path = tmp_path / HEAD_FILE
    save_file({HEAD_NAME: torch.randn(1, 7)}, path)
    with pytest.raises(UserError, match=r"shape \[1, 7\], config.json wants \[1, 32\]"):
        load_reward_model(tmp_path)
    save_file({"other": torch.randn(1, 32)}, path)
    with pytest.raises(UserError, match="damaged"):
        load_reward_model(tmp_path)
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match="damaged"):
        load_reward_model(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no reward model"):
        load_reward_model(tmp_path)
