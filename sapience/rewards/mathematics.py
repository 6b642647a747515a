r"""Does a worked answer end in the right result? The result is what stands in the last `\boxed{...}`.

Two results are the same when, after normalisation, they are the same text or both are numbers of the same value.
Normalisation: compatible Unicode forms (NFKC), the minus sign U+2212 as a hyphen, runs of white space as one blank,
none at the ends, one full stop at the end left out. A number is an optional sign, digits with at most one decimal point
between or before them, and an optional exponent of up to three digits (`e`); at most `_LONGEST_NUMBER` characters.
So 007 is 7, 2.50 is 2.5 and 1e3 is 1000, while `1,000`, `1/2` and `5 cm` are texts, equal to themselves alone: a
comma may part thousands, decimals or two answers, and a judge that guesses can be taught to be fooled.

Not covered: symbolic mathematics (fractions, roots, sets, LaTeX that means the same), which takes a computer algebra
system and processes that can be killed.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from sapience.problems.problem import Problem
from sapience.rewards.verdict import Verdict

_LONGEST_RESULT = 4096
"""Characters; what is longer is no result that somebody wrote down, and is not compared."""
_LONGEST_NUMBER = 400
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOX_OR_BRACE = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance (of nested boxes the inner one); escaped braces are text."""
    opened: list[tuple[bool, int]] = []
    best: tuple[int, int] | None = None
    for found in _BOX_OR_BRACE.finditer(text):
        if found[0] in ("{", r"\boxed{"):
            opened.append((found[0] != "{", found.end()))
        elif found[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box and (best is None or start > best[0]):
                best = (start, found.start())
    return None if best is None else text[slice(*best)]


def judge_answer(problem: Problem, text: str) -> Verdict:
    """`format_error` without a box, else `ok` or `wrong`. Takes time in proportion to the text, whatever it says."""
    result = boxed_answer(text)
    if result is None:
        return Verdict("format_error", 0, 1, r"no \boxed{...}")
    if len(result) <= _LONGEST_RESULT and _same(_normalised(result), _normalised(problem.answer)):
        return Verdict("ok", 1, 1)
    return Verdict("wrong", 0, 1, "the result in the box is not the right one")


def _same(given: str, right: str) -> bool:
    if given == right:
        return True
    value = _number(given)
    return value is not None and value == _number(right)


def _number(text: str) -> Decimal | None:
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text)


def _normalised(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
    return " ".join(plain.split()).removesuffix(".").rstrip()
