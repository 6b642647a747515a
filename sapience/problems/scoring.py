"""Is this text the right answer? Comparison of text only.

Code is *not* executed here: a code answer counts when it is the canonical source up to white space at line ends, so
this is a lower bound for code, enough for a base model's cloze score. Programs are judged against their hidden
tests by the sandbox of the rewards room. Reasoning-gym problems also have their own, more lenient scorer, see
`sapience.problems.procedural.gym_score`.
"""

from __future__ import annotations

import unicodedata
from decimal import Decimal, InvalidOperation

from sapience.problems.plain import SEPARATOR
from sapience.problems.problem import ANSWER_MARK, Problem


def score(problem: Problem, text: str) -> bool:
    """True where `text`, direct or worked, up to its first empty line, ends in the right answer."""
    text = text.strip().split(SEPARATOR)[0]
    if problem.domain == "code" and problem.entry_point:
        return _source_lines(text) == _source_lines(problem.answer)
    return _same(final_answer(text), problem.answer)


def final_answer(text: str) -> str:
    """What stands behind the last answer mark of a worked answer; a direct answer is returned whole."""
    return text.rsplit(ANSWER_MARK, 1)[-1].strip()


def _same(given: str, right: str) -> bool:
    given, right = _normalised(given), _normalised(right)
    if given == right:
        return True
    try:
        return Decimal(given) == Decimal(right)
    except InvalidOperation:
        return False


def _normalised(text: str) -> str:
    """Compatible Unicode forms and runs of white space made one; a full stop at the end does not count."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).removesuffix(".")


def _source_lines(source: str) -> list[str]:
    return [line.rstrip() for line in source.splitlines() if line.strip()]
