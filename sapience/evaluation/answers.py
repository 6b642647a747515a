"""A judged answer, and what many of them say together: shares by family, format, length.

An answer that nobody could judge (the sandbox failed, not the answer) is kept in the record and counted, but is neither
right nor wrong: shares are taken over the others.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from sapience.evaluation.judging import Judge, is_code
from sapience.evaluation.scoring import Score, score_of
from sapience.problems.problem import Problem
from sapience.rewards.mathematics import boxed_answer
from sapience.rewards.source_code import fenced_source
from sapience.rewards.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said to a problem, not yet judged."""

    problem: Problem
    prompt: str
    shots: int
    text: str
    tokens: int
    finished: bool
    """False where the limit ended it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what the model said, and whether that is right."""

    said: Said
    verdict: Verdict
    formatted: bool | None
    """Finished and in the form an assistant answers in; None for a base model, of which none is asked."""

    @property
    def family(self) -> str:
        return self.said.problem.family

    @property
    def correct(self) -> bool:
        return self.verdict.right

    @property
    def judged(self) -> bool:
        """False where the judge failed."""
        return self.verdict.kind != "infra_error"

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        said = self.said
        return {
            "family": self.family, "identity": said.problem.identity, "shots": said.shots, "prompt": said.prompt,
            "produced": said.text, "answer": said.problem.answer, "correct": self.correct,
            "verdict": self.verdict.kind, "detail": self.verdict.detail, "tokens": said.tokens,
            "finished": said.finished, "formatted": self.formatted,
        }  # fmt: skip


def judged_answers(said: Sequence[Said], judge: Judge, plain: bool) -> list[Answer]:
    """All answers with their verdicts. `plain`: few-shot answers of a base model instead of an assistant's."""
    texts = [one.text.strip() if plain else one.text for one in said]
    verdicts = judge.judge_texts([one.problem for one in said], texts, plain)
    return [
        Answer(one, verdict, None if plain else one.finished and has_format(one.problem, one.text))
        for one, verdict in zip(said, verdicts, strict=True)
    ]


def has_format(problem: Problem, text: str) -> bool:
    r"""Whether an assistant's answer has what is asked of it: a `\boxed{}` result, or a fenced block for code."""
    return (fenced_source(text) if is_code(problem) else boxed_answer(text)) is not None


def family_scores(answers: Sequence[Answer]) -> dict[str, Score]:
    """Score by family, in the order of first appearance."""
    judged = [answer for answer in answers if answer.judged]
    families = dict.fromkeys(answer.family for answer in judged)
    return {family: score_of([a.correct for a in judged if a.family == family]) for family in families}


def score_record(score: Score) -> dict[str, Any]:
    """A JSON-able copy of a score."""
    return {"accuracy": score.accuracy, "interval": list(score.interval), "problems": score.problems}


def overall_score(answers: Iterable[Answer]) -> Score:
    """The share of right answers among those that could be judged."""
    return score_of([answer.correct for answer in answers if answer.judged])


def manner(answers: Sequence[Answer]) -> dict[str, Any]:
    """How answers look, right or wrong: length in tokens (`tokens_error` is the mean's standard error), share that came
    to an end, share with the asked format."""
    if not answers:
        return {}
    lengths = [answer.said.tokens for answer in answers]
    figures: dict[str, Any] = {
        "tokens_mean": fmean(lengths),
        "tokens_error": stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else 0.0,
        "tokens_median": median(lengths),
        "finished": fmean(answer.said.finished for answer in answers),
        "unjudged": sum(not answer.judged for answer in answers),
    }
    formatted = score_of([answer.formatted for answer in answers if answer.formatted is not None])
    if formatted.problems:
        figures |= {"format_rate": formatted.accuracy, "format_interval": list(formatted.interval)}
    return figures


def verdicts_by_family(answers: Iterable[Answer]) -> dict[str, dict[str, bool]]:
    """Whether each judged problem was solved, by family and identity: what two models are compared on."""
    verdicts: dict[str, dict[str, bool]] = {}
    for answer in answers:
        if answer.judged:
            verdicts.setdefault(answer.family, {})[answer.said.problem.identity] = answer.correct
    return verdicts
