"""Problems as plain text, the form in which a base model meets them (chat tokens are post-training's business).

    Problem: What is 7 * 23?
    Answer: 7 * 20 = 140, 7 * 3 = 21, 140 + 21 = 161

Problems of a few-shot prompt are separated by an empty line; no answer contains one, so an empty line ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from sapience.problems.problem import Problem

SEPARATOR = "\n\n"


def plain_document(problem: Problem, worked: bool) -> str:
    """Question and answer; with `worked` the steps stand before the answer, where the problem has steps."""
    return f"{plain_question(problem)} {problem.worked if worked else problem.answer}"


def plain_question(problem: Problem) -> str:
    """The document up to the point where the model has to answer (no blank at the end: the answer begins with one)."""
    return f"Problem: {problem.question}\nAnswer:"


def few_shot_prompt(shots: Sequence[Problem], problem: Problem, worked: bool = False) -> str:
    """Solved examples, then the open question."""
    return SEPARATOR.join([*(plain_document(shot, worked) for shot in shots), plain_question(problem)])
