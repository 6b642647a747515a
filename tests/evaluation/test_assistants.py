"""Asking assistants: the chat format and nothing else is asked, verdicts and formats follow the rules, behaviours count."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from stand_in_rules import NoSandbox, StandInRules, install_rules
from tiny_language_model import ByteTokenizer

from sapience.corpus.chat import ChatFormat, Message
from sapience.evaluation import zero_shot
from sapience.evaluation.answers import judged_answers, manner, overall_score, verdicts_by_family
from sapience.evaluation.behaviour import behaviour_answers, behaviour_figures, headline
from sapience.evaluation.judging import TextJudge, open_judge
from sapience.evaluation.scoring import wilson_interval
from sapience.evaluation.side_by_side import chat_side_answers, plain_side_answers, side_questions
from sapience.evaluation.zero_shot import agreement, consistency, zero_shot_answers
from sapience.inference.generate import Completion
from sapience.model.transformer import Transformer
from sapience.problems.demonstration import demonstration
from sapience.problems.everyday import BehaviourPrompt
from sapience.problems.families import generate as generate_problems
from sapience.recipe.evaluate import EvaluateSection, SidePrompt
from sapience.recipe.model import ModelSection
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.verdict import Verdict

CHAT = ChatFormat(ByteTokenizer())  # type: ignore[arg-type]
MODEL = Transformer(ModelSection(vocab_size=259, hidden_size=32, num_hidden_layers=2))
RULES = StandInRules(RewardsSection())
PROBLEMS = [problem for family in ("maxn", "codefn") for problem in generate_problems(family, "test", 6, 3)]


def saying(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, int], str | None]) -> list[list[int]]:
    """Lets the model answer `answer(what the user said last, how often that was asked before)`; None never ends."""
    asked: list[list[int]] = []

    def generate(
        model: Any, prompts: Sequence[Sequence[int]], limit: int, *, stop_ids: Collection[int], **_: Any
    ) -> list[Completion]:
        completions = []
        for prompt in prompts:
            text = ByteTokenizer().decode(list(prompt)).rsplit("User: ", 1)[1].removesuffix("\n\nAssistant:")
            said = answer(text, asked.count(list(prompt)))
            asked.append(list(prompt))
            tokens = CHAT.answer(said) if said is not None else [120] * limit
            completions.append(Completion(tokens[:limit], [0.0] * len(tokens[:limit]), tokens[:limit][-1] == 257))
        return completions

    monkeypatch.setattr(zero_shot, "generate", generate)
    return asked


def test_the_question_alone_is_asked_in_the_chat_format(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {problem.question: demonstration(problem, worked=True) for problem in PROBLEMS}
    asked = saying(monkeypatch, lambda question, _: right[question])
    said = zero_shot_answers(MODEL, CHAT, PROBLEMS, answer_tokens=300, seed=0)
    assert asked == [CHAT.prompt([Message("user", problem.question)]) for problem in PROBLEMS]
    answers = judged_answers(said, RULES, plain=False)
    assert all(answer.correct and answer.formatted for answer in answers)
    assert [one.tokens for one in said] == [len(CHAT.answer(right[problem.question])) for problem in PROBLEMS]
    assert manner(answers)["format_rate"] == 1.0


def test_the_format_asks_for_an_end_and_a_box_or_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    said_to = {
        PROBLEMS[0].question: r"It is \boxed{1}",
        PROBLEMS[1].question: "It is 1",
        PROBLEMS[2].question: None,
        PROBLEMS[6].question: "```python\ndef f(x): return 1\n```",
        PROBLEMS[7].question: "```python\ndef f(x): return 1",
        PROBLEMS[8].question: r"\boxed{def f(x): return 1}",
    }
    chosen = [problem for problem in PROBLEMS if problem.question in said_to]
    saying(monkeypatch, lambda question, _: said_to[question])
    answers = judged_answers(zero_shot_answers(MODEL, CHAT, chosen, answer_tokens=50, seed=0), RULES, False)
    assert [answer.formatted for answer in answers] == [True, False, False, True, False, False]
    figures = manner(answers)
    assert figures["format_rate"] == pytest.approx(2 / 6)
    assert figures["format_interval"] == list(wilson_interval(2, 6))
    assert figures["finished"] == pytest.approx(5 / 6)
    lengths = [answer.said.tokens for answer in answers]
    assert figures["tokens_mean"] == pytest.approx(np.mean(lengths))
    assert figures["tokens_error"] == pytest.approx(np.std(lengths, ddof=1) / 6**0.5)


def test_what_nobody_could_judge_is_neither_right_nor_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(StandInRules):
        def judge_texts(self, problems: Any, texts: Any, plain: bool = False) -> list[Verdict]:
            kinds = ["infra_error", "ok", "wrong", "infra_error", "ok", "ok"]
            return [Verdict(kind) for kind in kinds]  # type: ignore[arg-type]

    saying(monkeypatch, lambda question, _: "1")
    answers = judged_answers(
        zero_shot_answers(MODEL, CHAT, PROBLEMS[:6], answer_tokens=9, seed=0), Failing(RewardsSection()), False
    )
    score = overall_score(answers)
    assert (score.right, score.problems) == (3, 4)
    assert manner(answers)["unjudged"] == 2
    assert len(verdicts_by_family(answers)["maxn"]) == 4


def test_consistency_is_the_commonest_final_answers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    number, program = PROBLEMS[0], PROBLEMS[6]
    wordings = [r"so \boxed{4}", r"\boxed{ 4 }", r"\boxed{5}", "4"]
    assert agreement(number, wordings) == 0.5
    assert agreement(number, ["4", "4"]) == 0.0
    assert agreement(program, ["```python\nx = 1\n```", "Here:\n```python\nx = 1  \n```"]) == 1.0
    asked = saying(monkeypatch, lambda question, time: wordings[time] if question == number.question else "no")
    settings = {"temperature": 0.7, "answer_tokens": 40, "seed": 0}
    assert consistency(MODEL, CHAT, [number, program], 4, **settings) == pytest.approx((0.5 + 0.0) / 2)
    assert len(asked) == 8
    with pytest.raises(ValueError, match="at least one problem"):
        consistency(MODEL, CHAT, [], 4, **settings)


def test_refusing_everything_is_no_good_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = [
        BehaviourPrompt("hurt", "en", "harmful"),
        BehaviourPrompt("cook", "en", "harmless"),
        BehaviourPrompt("guess", "en", "unanswerable"),
        BehaviourPrompt("伤害", "zh", "harmful"),
        BehaviourPrompt("做饭", "zh", "harmless"),
    ]
    saying(monkeypatch, lambda wish, _: "I can't help with that.")
    figures = behaviour_figures(behaviour_answers(MODEL, CHAT, wishes, 60, 0))
    assert headline(figures) == {"refusal": {"harmful": 1.0, "harmless": 0.0}, "admits_ignorance": 0.0}
    assert figures["refused"] == {"share": 1.0, "interval": list(wilson_interval(2, 2)), "wishes": 2}
    assert figures["in_language"]["share"] == pytest.approx(3 / 5)
    assert figures["by_language"]["zh"]["in_language"]["share"] == 0.0
    assert "admitted" not in figures["by_language"]["zh"]
    good = {"hurt": "I can't help with that.", "cook": "Boil it.", "guess": "I don't know.", "伤害": "这个我不能帮忙。"}
    saying(monkeypatch, lambda wish, _: good.get(wish, "煮十分钟。"))
    answers = behaviour_answers(MODEL, CHAT, wishes, 60, 0)
    assert [answer.behaved for answer in answers] == [True] * 5
    assert headline(behaviour_figures(answers)) == {
        "refusal": {"harmful": 1.0, "harmless": 1.0}, "admits_ignorance": 1.0,
    }  # fmt: skip
    assert [answer.record()["refuses"] for answer in answers] == [True, False, False, True, False]


def test_prompts_side_by_side_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = (
        SidePrompt(name="chat", turns=("I am Ada.", "Hello Ada.", "Who am I?")),
        SidePrompt(name="sum", family="maxn"),
        SidePrompt(name="hello", turns=("Hello",)),
    )
    questions = side_questions(prompts, seed=3)
    assert questions[1].turns == (PROBLEMS[0].question,)
    assert questions[1].record()["expected"] == PROBLEMS[0].answer
    asked = saying(monkeypatch, lambda text, _: text.upper())
    assert chat_side_answers(MODEL, CHAT, questions, 200, 0) == [
        "WHO AM I?", PROBLEMS[0].question.upper(), "HELLO",
    ]  # fmt: skip
    said_before = [Message("user", "I am Ada."), Message("assistant", "Hello Ada."), Message("user", "Who am I?")]
    assert asked[0] == CHAT.prompt(said_before)
    torch.manual_seed(0)
    section = EvaluateSection(shots=1, answer_tokens=3)
    plain = plain_side_answers(MODEL.initialize(0), ByteTokenizer(), questions, section, 100, 0)  # type: ignore[arg-type]
    assert len(plain) == 3
    alone = plain_side_answers(MODEL, ByteTokenizer(), questions[1:2], section, 100, 0)  # type: ignore[arg-type]
    assert alone == plain[1:2]


def test_a_prompt_is_a_family_or_turns_that_end_with_the_user() -> None:
    for wrong in ({}, {"family": "maxn", "turns": ("a",)}, {"turns": ("a", "b")}):
        with pytest.raises(ValueError, match="the prompt 'x'"):
            SidePrompt(name="x", **wrong)  # type: ignore[arg-type]


def test_without_a_sandbox_texts_are_judged_and_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install_rules(monkeypatch, NoSandbox)
    with open_judge(True, RewardsSection()) as judge:
        assert not judge.executes
        assert "cannot be contained" in judge.reason
        assert isinstance(judge.judge, TextJudge)
    monkeypatch.undo()
    number, program = PROBLEMS[0], PROBLEMS[6]
    texts = [demonstration(number, False), "1"]
    kinds = [verdict.kind for verdict in TextJudge().judge_texts([number, number], texts)]
    assert kinds == ["ok", "format_error"]
    assert TextJudge().judge_texts([number], [number.worked], plain=True)[0].right
    assert not TextJudge().judge_texts([number], ["-1"], plain=True)[0].right
    with pytest.raises(ValueError, match="here nothing is"):
        TextJudge().judge_texts([program], [program.answer], plain=True)


def test_programs_of_base_models_and_of_assistants_are_executed() -> None:
    """Neither text is the canonical one; right is what passes the hidden tests."""
    program = next(problem for problem in PROBLEMS if problem.domain == "code")
    other = program.answer.replace("def f(", "def g(") + "\n\nf = g"
    with open_judge(True, RewardsSection()) as judge:
        if not judge.executes:
            pytest.skip(judge.reason)
        chat = [f"Sure:\n```python\n{text}\n```" for text in (other, "def f(x): return None")]
        assert [v.right for v in judge.judge.judge_texts([program] * 2, chat)] == [True, False]
        plain = [program.answer.replace("    ", "  "), "def f(x): return None"]
        assert [v.right for v in judge.judge.judge_texts([program] * 2, plain, plain=True)] == [True, False]
        assert judge.judge.description


def test_the_sandbox_is_opened_for_code_only(monkeypatch: pytest.MonkeyPatch) -> None:
    install_rules(monkeypatch)
    with open_judge(True, RewardsSection()) as judge:
        assert judge.executes
        assert judge.judge.description == "stand-in for a sandbox"
    install_rules(monkeypatch, None)
    with open_judge(False, RewardsSection()) as judge:
        assert not judge.executes
