"""Few-shot cloze: prompts fit the window, answers end where they should, verdicts follow the right answer."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
from stand_in_rules import StandInRules
from tiny_language_model import ByteTokenizer

from sapience.evaluation import few_shot
from sapience.evaluation.answers import Answer, family_scores, judged_answers
from sapience.evaluation.few_shot import few_shot_answers, fitting_prompt, rows_at_once, stop_tokens
from sapience.evaluation.stage import family_names
from sapience.inference.generate import Completion
from sapience.model.transformer import Transformer
from sapience.problems.families import generate as generate_problems
from sapience.problems.problem import is_test
from sapience.recipe.errors import UserError
from sapience.recipe.model import ModelSection
from sapience.recipe.rewards import RewardsSection


def answering(monkeypatch: pytest.MonkeyPatch, said: Sequence[str]) -> list[str]:
    """Lets the model say `said`, one after the other; returns the list that its prompts are written to."""
    asked: list[str] = []

    def generate(
        model: Any, prompts: Sequence[Sequence[int]], limit: int, *, stop_ids: Collection[int], **_: Any
    ) -> list[Completion]:
        texts = [
            ByteTokenizer().encode(said[(len(asked) + place) % len(said)])[:limit] for place in range(len(prompts))
        ]
        asked.extend(ByteTokenizer().decode(list(prompt)) for prompt in prompts)
        return [Completion(tokens, [0.0] * len(tokens), False) for tokens in texts]

    monkeypatch.setattr(few_shot, "generate", generate)
    return asked


def ask(family: str, count: int, **settings: int) -> list[Answer]:
    model = Transformer(ModelSection(vocab_size=259))
    amounts = {"shots": 2, "window": 1000, "answer_tokens": 200, "seed": 5, **settings}
    problems = generate_problems(family, "test", count, amounts["seed"])
    return judged_answers(
        few_shot_answers(model, ByteTokenizer(), problems, **amounts), StandInRules(RewardsSection()), plain=True
    )


@pytest.mark.parametrize("family", ["maxn", "numword", "codefn"])
def test_right_answers_count_and_what_follows_them_does_not(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = generate_problems(family, "test", 8, 5)
    asked = answering(monkeypatch, [f" {problem.answer}\n\nProblem: and" for problem in problems])
    results = ask(family, 8)
    assert [result.correct for result in results] == [True] * 8
    assert [result.said.text.strip() for result in results] == [problem.answer for problem in problems]
    assert [result.said.prompt for result in results] == asked
    assert all(
        is_test(problem.question) and problem.question in text for problem, text in zip(problems, asked, strict=True)
    )
    shots = generate_problems(family, "train", 2, 5)
    assert all(shot.question in text for shot in shots for text in asked)


def test_families_of_one_line_and_of_many_are_asked_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of one line end at the line, programs at an empty line; mixing families changes neither."""
    asked = answering(monkeypatch, [" one\ntwo\n\nthree"])
    problems = [p for family in ("codefn", "maxn", "codelist", "mul1") for p in generate_problems(family, "test", 2, 0)]
    amounts = {"shots": 1, "window": 1000, "answer_tokens": 200, "seed": 0}
    said = few_shot_answers(Transformer(ModelSection(vocab_size=259)), ByteTokenizer(), problems, **amounts)
    assert [one.problem for one in said] == problems
    assert [one.text for one in said] == [" one\ntwo" if one.problem.domain == "code" else " one" for one in said]
    assert sorted(asked) == sorted(one.prompt for one in said)
    shots = {p.family: generate_problems(p.family, "train", 1, 0)[0] for p in problems}
    assert all(shots[one.problem.family].question in one.prompt for one in said)


def test_wrong_answers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [" no idea\n"])
    results = ask("maxn", 5)
    assert family_scores(results)["maxn"].accuracy == 0.0
    assert {result.said.text for result in results} == {" no idea"}


def test_shots_that_do_not_fit_are_left_out() -> None:
    tokenizer = ByteTokenizer()
    problem = generate_problems("maxn", "test", 1, 0)[0]
    shots = generate_problems("maxn", "train", 4, 0)
    for limit in (20, 80, 120, 1000):
        prompt, tokens, number = fitting_prompt(tokenizer, shots, problem, limit)
        assert tokens == [tokenizer.bos_id, *tokenizer.encode(prompt)]
        assert len(tokens) <= limit or number == 0
        if number < len(shots):
            longer, _, _ = fitting_prompt(tokenizer, shots[: number + 1], problem, 10_000)
            assert len(tokenizer.encode(longer)) + 1 > limit


def test_generation_ends_at_every_token_with_a_line_break() -> None:
    class Pairs(ByteTokenizer):
        vocab_size = 261

        def token_bytes(self, token: int) -> bytes:
            return {259: b".\n", 260: b"\n\n"}.get(token, super().token_bytes(token))

    assert stop_tokens(Pairs(), "\n") == {10, 257, 259, 260}
    assert stop_tokens(Pairs(), "\n\n") == {257, 260}


def test_a_real_model_is_asked_and_repeats_itself() -> None:
    torch.set_num_threads(1)
    model = Transformer(ModelSection(vocab_size=259, hidden_size=32, num_hidden_layers=2)).initialize(0)
    amounts = {"shots": 1, "window": 128, "answer_tokens": 6, "seed": 1}
    problems = generate_problems("maxn", "test", 4, 1)
    first = few_shot_answers(model, ByteTokenizer(), problems, **amounts)
    assert first == few_shot_answers(model, ByteTokenizer(), problems, **amounts)
    assert [one.problem for one in first] == problems


def test_long_prompts_are_answered_few_at_a_time() -> None:
    assert rows_at_once([[1] * 100] * 9) == 256
    assert rows_at_once([[1], [1] * 4096]) == 8
    assert rows_at_once([[1] * 100_000]) == 1
    assert rows_at_once([]) == 256


def test_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"nonsense.*choose from .*maxn"):
        family_names(["maxn", "nonsense"])
    assert family_names(["maxn"]) == ["maxn"]
