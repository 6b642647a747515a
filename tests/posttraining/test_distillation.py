"""What is kept of drawn answers: right ones that came to an end, the shortest, the problem set's own first."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from quiet_progress import quiet
from tiny_models import tiny_config

from sapience.corpus.chat import Message
from sapience.model.transformer import Transformer
from sapience.posttraining import distill as stage
from sapience.posttraining.demonstrations import expert_demonstrations, plain_demonstration, practised
from sapience.posttraining.distillation import Drawn, ReasoningKind, distilled, read_draws, write_draws
from sapience.problems.families import generate
from sapience.problems.problem import Problem
from sapience.recipe import Recipe
from sapience.run import StageContext

SYSTEM = "Check your steps."


def drawn(
    question: str, kind: ReasoningKind, text: str, tokens: int, verdict: str = "ok", finished: bool = True
) -> Drawn:
    return Drawn(question, "math", "maxn", kind, text, tokens, verdict, finished)


def test_the_shortest_right_answer_that_ended_is_kept_of_each_kind() -> None:
    answers = [
        drawn("a", "original", "long but right", 9),
        drawn("a", "original", "right", 5),
        drawn("a", "original", "also right", 5),
        drawn("a", "original", "no", 1, "wrong"),
        drawn("a", "reasoned", "cut off", 2, finished=False),
        drawn("a", "reasoned", "steps, right", 30),
        drawn("b", "reasoned", "wrong", 3, "wrong"),
        drawn("b", "original", "unjudged", 3, "infra_error"),
        drawn("c", "reasoned", "c is right", 8),
    ]
    kept = distilled(answers, {}, SYSTEM)
    assert [(s.messages[0].content, s.answer) for s in kept["original"]] == [("a", "right")]
    assert [s.answer for s in kept["reasoned"]] == ["steps, right", "c is right"]
    first = kept["reasoned"][0]
    assert first.messages[0] == Message("system", SYSTEM) and first.kind == "reasoned" and first.source == "math expert"
    assert kept["original"][0].messages[0].role == "user"


def test_the_problem_sets_own_answer_goes_before_a_drawn_one_in_the_original_kind_only() -> None:
    answers = [drawn("a", "original", "1", 1), drawn("a", "reasoned", "steps", 7), drawn("b", "original", "2", 1)]
    kept = distilled(answers, {"a": "given"}, "")
    assert [(s.answer, s.source) for s in kept["original"]] == [("given", "problem set"), ("2", "math expert")]
    assert [(s.answer, len(s.messages)) for s in kept["reasoned"]] == [("steps", 2)]


def test_draws_survive_the_file_with_every_odd_character(tmp_path: Path) -> None:
    answers = [drawn("q\u2028", "reasoned", "line\u2028break\r\n\x85\x00", 3), drawn("早", "original", "", 0, "wrong")]
    write_draws(tmp_path / "draws.jsonl", answers)
    assert read_draws(tmp_path / "draws.jsonl") == answers


def test_experts_are_shown_every_problem_plain_and_behind_the_prompt_with_its_steps() -> None:
    problems = generate("maxn", "train", 40, 1) + generate("codefn", "train", 10, 1)
    samples = expert_demonstrations(problems, 0.5, SYSTEM, 7)
    plain, reasoned = samples[:50], samples[50:]
    assert [s.messages[-2].content for s in plain] == [s.messages[-2].content for s in reasoned]
    assert {s.messages[0].content for s in reasoned} == {SYSTEM} and all(len(s.messages) == 2 for s in plain)
    stepped = [
        p.answer != s.answer.removeprefix("\\boxed{").removesuffix("}") for p, s in zip(problems, plain, strict=True)
    ]
    assert 8 < sum(stepped[:40]) < 32, "half of the plain answers show their steps"
    assert all(len(r.answer) >= len(p.answer) for p, r in zip(plain, reasoned, strict=True))
    assert (
        plain
        == [plain_demonstration(p, 0.5, 7) for p in problems]
        != [plain_demonstration(p, 0.5, 8) for p in problems]
    )


def test_an_epoch_shows_reasoning_as_often_as_asked_and_everything_else_once() -> None:
    samples = expert_demonstrations(generate("maxn", "train", 7, 1), 0.5, SYSTEM, 7)
    assert practised(samples, 1) == samples
    shown = practised(samples, 3)
    assert Counter(map(id, shown)) == Counter(map(id, samples)) + Counter(map(id, samples[7:] * 2))
    assert shown[14:21] == shown[21:] == samples[7:], "copies stand in rounds"


class Programs:
    """Stands for rules whose sandbox is known once they have judged."""

    description = ""

    def __init__(self, _: object) -> None:
        pass

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_where_programs_ran_is_told_by_a_session_that_judged_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def draw_shard(_: Any, __: Any, problems: Sequence[Problem], *___: Any) -> list[Drawn]:
        asked.append(len(problems))
        monkeypatch.setattr(Programs, "description", "a sandbox")
        return [drawn(problem.question, "original", "7", 1) for problem in problems]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "RuleJudge", Programs)
    monkeypatch.setattr(stage, "draw_shard", draw_shard)
    monkeypatch.setattr(stage, "right_or_wrong", lambda rules: None)
    monkeypatch.setattr(stage, "experts", lambda context: {"code": tmp_path})
    monkeypatch.setattr(stage, "ChatFormat", lambda tokenizer: None)
    monkeypatch.setattr(stage.Tokenizer, "load", lambda folder: None)
    monkeypatch.setattr(stage, "load_model", lambda folder: Transformer(tiny_config()))
    tree = {
        "specialise": {"experts": {"code": {"problems": {"families": {"maxn": 1}}}}},
        "distill": {"problems": 6, "shard_problems": 4, "written": False, "device": "cpu"},
    }
    context = StageContext(Recipe.model_validate(tree), tmp_path, tmp_path, {}, quiet)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "distilled", killed)
        stage.run(context)
    monkeypatch.setattr(Programs, "description", "")
    assert stage.run(context)["sandbox"] == "a sandbox" and asked == [4, 2]
