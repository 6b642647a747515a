"""The stage from draws to model: people are asked once, what they say is learned from, a kill changes nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet_progress import quiet
from tiny_models import tiny_config

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer, train_tokenizer
from sapience.evaluation.scoring import wilson_interval
from sapience.inference.generate import Completion
from sapience.model.huggingface import save_model
from sapience.model.transformer import Transformer
from sapience.posttraining import reward as stage
from sapience.posttraining import reward_draws
from sapience.posttraining.preference import read_pairs
from sapience.posttraining.reward_model import load_reward_model
from sapience.posttraining.rollouts import Judge, Prompt, Reward, Rollout, draw
from sapience.problems.everyday import everyday_conversations
from sapience.problems.families import generate
from sapience.problems.problem import split_of
from sapience.recipe import Recipe, UserError
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison
from sapience.run import StageContext
from sapience.training.device import placed

FAMILIES = {"maxn": 1, "sortn": 1}


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `finetune` leaves it; what it says is nonsense."""
    texts = [text for c in everyday_conversations()[:200] for _, text in c.turns]
    tokenizer = train_tokenizer(texts, 300, 1)
    config = tiny_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=256, initializer_range=0.2)
    folder = tmp_path_factory.mktemp("tuned")
    save_model(Transformer(config).initialize(1), folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


def scripted(
    model: Transformer, chat: ChatFormat, prompts: Sequence[Prompt], samples: int, judge: Judge, **settings: Any
) -> list[list[Rollout]]:
    """What a model would say that solves a problem every other time: right and wrong boxes, a wish answered in turn."""
    groups = []
    for number, prompt in enumerate(prompts):
        texts = [f"Yes, {(sample + number) % 3}." for sample in range(samples)]
        if prompt.problem is not None:
            right = prompt.problem.answer
            texts = [f"\\boxed{{{right if sample % 2 else right + '1'}}}" for sample in range(samples)]
        rewards = judge([prompt] * samples, texts)
        completions = [Completion(chat.answer(text), [-1.0] * len(chat.answer(text)), True) for text in texts]
        groups.append(
            [
                Rollout(prompt, chat.prompt(prompt.messages), c, t, r)
                for c, t, r in zip(completions, texts, rewards, strict=True)
            ]
        )
    return groups


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_draws, "draw", scripted)
    monkeypatch.setattr(reward_draws, "SHARD_PROMPTS", 8)


def context(run: Path, tuned: Path, comparisons: int = 6, **section: Any) -> StageContext:
    values = {
        "model": str(tuned), "problems": {"families": FAMILIES}, "problem_prompts": 20, "draws": 4, "answer_tokens": 6,
        "batch_pairs": 32, "micro_pairs": 32, "epochs": 1, "peak": 3e-3, "log_every": 1, "checkpoint_every": 2,
    }  # fmt: skip
    recipe = Recipe.model_validate(
        {"seed": 2, "reward": values | section, "review": {"comparisons": comparisons}, "specialise": {"experts": {}}}
    )
    (run / "reward").mkdir(parents=True, exist_ok=True)
    return StageContext(recipe, run, run / "reward", {}, quiet)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def made_by(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if name == "metrics.jsonl":
            made[name] = [record | {"seconds": 0} for record in lines(path)]
        elif "checkpoints" not in name and "tensorboard" not in name:
            made[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return made


def test_the_stage_measures_what_it_held_out_and_keeps_reasons(tuned: Path, tmp_path: Path) -> None:
    told = context(tmp_path / "run", tuned)
    figures = stage.run(told)
    pairs = read_pairs(told.folder / "pairs.jsonl")
    assert all(pair.reason for pair in pairs)
    counted = figures["pairs"]
    assert sum(counted["learned"].values()) == sum(not p.test for p in pairs)
    assert counted["held_out"]["written"] == 52 and counted["learned"]["drawn"] + counted["held_out"]["drawn"] == 20
    drawn = [p for p in pairs if p.kind == "drawn"]
    assert {p.category for p in drawn} == set(FAMILIES)
    assert all(split_of(p.messages[-1].content) == "train" and p.messages[0].role == "user" for p in drawn)
    assert all(p.rejected == p.chosen.replace("}", "1}") for p in drawn)

    scores = lines(told.folder / "held_out_scores.jsonl")
    right = sum(record["chosen"] > record["rejected"] for record in scores)
    assert figures["pair_accuracy"] == pytest.approx(right / len(scores), abs=1e-4)
    assert figures["pair_interval"] == pytest.approx(wilson_interval(right, len(scores)), abs=1e-4)
    by_category = figures["pair_accuracy_by_category"]
    assert sum(part["pairs"] for part in by_category.values()) == len(scores) == sum(p.test for p in pairs)
    assert {"refusal", "harmless", "unknown"} <= set(by_category)
    model = load_reward_model(told.folder / "model")
    chat = ChatFormat(Tokenizer.load(told.folder / "model"))
    held_out = [p for p in pairs if p.test]
    again = model.scores(chat, [p.conversation(p.chosen) for p in held_out])
    assert again == pytest.approx([record["chosen"] for record in scores], abs=1e-5)
    assert figures["steps"] == -(-sum(counted["learned"].values()) // 32) and figures["sandbox"] == ""
    assert json.loads(json.dumps(figures)) == figures


def test_the_stage_trains_and_scores_in_the_precision_it_is_given(tuned: Path, tmp_path: Path) -> None:
    """Held-out scores are those of the saved model in bfloat16, and not quite those in float32."""
    told = context(tmp_path / "run", tuned, device="cpu", precision="bf16", problem_prompts=0)
    stage.run(told)
    held_out = [p for p in read_pairs(told.folder / "pairs.jsonl") if p.test]
    noted = [record["chosen"] for record in lines(told.folder / "held_out_scores.jsonl")]
    model = load_reward_model(told.folder / "model")
    chat = ChatFormat(Tokenizer.load(told.folder / "model"))
    asked = [p.conversation(p.chosen) for p in held_out]
    exact = model.scores(chat, asked)
    placed(model.transformer, told.recipe.reward)
    assert model.scores(chat, asked) == pytest.approx(noted, abs=1e-5)
    assert exact != pytest.approx(noted, abs=1e-5) and exact == pytest.approx(noted, abs=0.1)


def kill_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int, module: Any = stage) -> None:
    """The next `calls`-th call of a function of the module ends the process, as far as a test can."""
    real: Callable[..., Any] = getattr(module, name)
    seen = [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        seen[0] += 1
        if seen[0] == calls:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, counted)


def test_a_stage_killed_anywhere_makes_the_same_and_draws_nothing_twice(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = context(tmp_path / "whole" / "run", tuned)
    figures = stage.run(whole)
    killed = context(tmp_path / "killed" / "run", tuned)
    drawn: list[int] = []

    def counting(model: Transformer, chat: ChatFormat, prompts: Sequence[Prompt], *rest: Any, **named: Any) -> Any:
        groups = scripted(model, chat, prompts, *rest, **named)
        drawn.append(len(prompts))
        return groups

    moments = (
        (reward_draws, "write_atomically", 2), (stage, "_asked", 1), (stage, "write_pairs", 1),
        (stage, "write_atomically", 1), (stage, "PreferenceTraining", 1), (stage, "save_reward_model", 1),
    )  # fmt: skip
    for module, name, calls in moments:
        with monkeypatch.context() as patch:
            patch.setattr(reward_draws, "draw", counting)
            kill_after(patch, name, calls, module)
            with pytest.raises(Killed):
                stage.run(killed)
    again = stage.run(killed)
    assert drawn == [8, 8, 8, 4, 6]  # the shard that was drawn and not yet kept is drawn again
    assert again | {"seconds": 0} == figures | {"seconds": 0}
    assert made_by(killed.folder) == made_by(whole.folder)


def test_what_people_say_is_learned_from_when_the_stage_is_made_again(tuned: Path, tmp_path: Path) -> None:
    told = context(tmp_path / "run", tuned, problem_prompts=0)
    assert stage.run(told)["comparisons_waiting"] == 6
    queue = ReviewQueue.open(queue_url(told.run))
    wishes = {tuple(c.turns[:1]) for c in everyday_conversations()}
    said = []
    for _ in range(2):
        waiting = queue.next_comparison("Ada")
        assert waiting is not None and tuple(waiting.messages[-1:]) in wishes | {
            tuple(c.turns[1:2]) for c in everyday_conversations()
        }
        queue.choose(waiting.identity, "Ada", "second", "It sounds warmer.")
        said.append((waiting.second, waiting.first))
    of_another_run = Comparison.of((("user", "Ping?"),), "Pong.", "Pang.", "en", "greeting", "elsewhere")
    queue.add_comparisons([of_another_run])
    queue.choose(of_another_run.identity, "Ada", "equal", "Either will do.")
    assert len(queue.compared()) == 3
    shutil.rmtree(told.folder)
    told.folder.mkdir()
    figures = stage.run(told)
    assert figures["comparisons_waiting"] == 4 and queue.counts().waiting == 4
    people = [p for p in read_pairs(told.folder / "pairs.jsonl") if p.kind == "people"]
    assert sorted((p.chosen, p.rejected) for p in people) == sorted(said)
    assert all(p.reason == "It sounds warmer." and p.source.endswith("compared by Ada") for p in people)
    queue.close()


def test_nothing_is_drawn_and_no_queue_made_where_nobody_asks(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after(monkeypatch, "draw", 1, reward_draws)
    path = tmp_path / "mine.jsonl"
    good = [{"prompt": f"What about {n}?", "chosen": f"It is {n}.", "rejected": "Go away."} for n in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*good, good[0], {"prompt": "x"}]))
    told = context(tmp_path / "run", tuned, 0, problems={}, pairs=[str(path)], written=False)
    figures = stage.run(told)
    assert not (told.run / "review.sqlite").exists() and figures["comparisons_waiting"] == 0
    assert sum(figures["pairs"]["learned"].values()) + sum(figures["pairs"]["held_out"].values()) == 40
    assert figures["left_out"] == {
        "mine.jsonl: 'chosen' is missing, empty or does not end with the assistant's answer": 1,
        "the same pair again": 1,
    }


def test_lines_of_problem_files_that_cannot_be_used_are_counted(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    good = [json.dumps({"question": f"What is {n}?", "answer": n}) for n in range(60)]
    path.write_text("\n".join([*good, "{"]))
    figures = stage.run(context(tmp_path / "run", tuned, 0, problems={"files": [{"path": str(path)}]}))
    assert figures["left_out"][f"{path}: not JSON"] == 1


@pytest.mark.parametrize("finished", [True, False])
def test_an_answer_that_did_not_end_leaves_the_place_to_the_problem_sets_own(finished: bool) -> None:
    problem = generate("maxn", "train", 1, 0)[0]
    ended = Rollout(Prompt.of(problem), [1], Completion([5], [0.0], finished), "x", Reward(1.0, {}, "ok"))

    class Chat:
        def answer(self, text: str) -> list[int]:
            return list(text.encode())

    group = reward_draws._problem_group(Chat(), [ended])  # type: ignore[arg-type]
    assert [answer.finished for answer in group.answers] == ([True] if finished else [False, True])


def test_pairs_that_are_too_long_are_counted_and_without_pairs_the_stage_says_what_to_do(
    tuned: Path, tmp_path: Path
) -> None:
    figures = stage.run(context(tmp_path / "short", tuned, 0, problem_prompts=0, length=40))
    left = figures["left_out"]["longer than the section's length"]
    kept = sum(figures["pairs"]["learned"].values()) + sum(figures["pairs"]["held_out"].values())
    assert left > 0 and left + kept == 260
    with pytest.raises(UserError, match=r"no pair to learn from.*reward\.pairs"):
        stage.run(context(tmp_path / "none", tuned, 0, problem_prompts=0, written=False))


def test_a_real_model_draws_answers_that_are_judged(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_draws, "draw", draw)
    told = context(tmp_path / "run", tuned, 3, problem_prompts=5, draws=2)
    figures = stage.run(told)
    record = json.loads((told.folder / "draws" / "draws-0000.json").read_text())
    verdicts = [[answer["verdict"] for answer in group["answers"]] for group in record["groups"]]
    assert verdicts == [["format_error", "format_error", "ok"]] * 5, "the problem set's own answer stands in"
    drawn = figures["pairs"]["learned"].get("drawn", 0) + figures["pairs"]["held_out"].get("drawn", 0)
    assert drawn + figures["left_out"].get("problems without a right and a wrong answer", 0) == 5
    assert torch.isfinite(torch.tensor([r["loss"] for r in lines(told.folder / "metrics.jsonl")])).all()
