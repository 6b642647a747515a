r"""Does a worked answer end in the right result? The result is what stands in the last `\boxed{...}`.

Two results are the same when, after normalisation, they are the same text or both are numbers of the same value.
Normalisation: compatible Unicode forms (NFKC, but 5² does not become 52), the minus sign U+2212 as a hyphen, runs of
white space as one blank, none at the ends, one full stop at the end left out. A number is an optional sign, digits with at
most one decimal point between or before them, and an optional exponent of up to three digits (`e`); at most
`_LONGEST_NUMBER` characters.
So 007 is 7, 2.50 is 2.5 and 1e3 is 1000, while `1,000`, `1/2` and `5 cm` are texts, equal to themselves alone: a
comma may part thousands, decimals or two answers, and a judge that guesses can be taught to be fooled.

A recipe may let results stand elsewhere too, and `final_answer` finds them: `#### 42` as in GSM8K, or a line `Answer: 42`
or `答案：42`. No form is guessed: "the last number in the text" rewards a text that ends in many numbers.

Not covered here: symbolic mathematics (fractions, roots, sets, LaTeX that means the same). That is `math_judge`, with a
computer algebra system in processes that can be killed; this is what it tries first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import groupby

from sapience.problems.problem import Problem
from sapience.rewards.verdict import Verdict

_LONGEST_RESULT = 4096
"""Characters; what is longer is no result that somebody wrote down, and is not compared."""
_LONGEST_NUMBER = 400
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_HASH = re.compile(r"^[ \t]*#{4}(?!#)[ \t]*(\S[^\n]*)$", re.MULTILINE)
_ENGLISH_LEAD = r"(?:the[ ]+)?(?:final[ ]+)?answer(?:\*\*)?[ ]*(?:is\b[ ]*:?|:)"
_CHINESE_LEAD = r"(?:最终|最后)?(?:的)?答案(?:\*\*)?[ ]*(?:是|为|:|：)+"
_ANSWER_LINE = re.compile(
    rf"^[ \t>#*-]*(?:{_ENGLISH_LEAD}|{_CHINESE_LEAD})(?:\*\*)?[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE
)
_LAID_OUT = ("<super>", "<sub>", "<circle>", "<fraction>")
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


def hash_answer(text: str) -> str | None:
    """What stands behind the last `####` that begins a line."""
    found = _HASH.findall(text)
    return found[-1].strip() if found else None


def answer_line(text: str) -> str | None:
    r"""What stands in the last line that begins as an answer (`Answer:`, `The answer is`, `答案：`); a box in it is opened."""
    found = _ANSWER_LINE.findall(text)
    if not found:
        return None
    line = found[-1].strip()
    if line.endswith("**") and "**" not in line[:-2]:  # the emphasis began before the answer
        line = line[:-2].strip()
    boxed = boxed_answer(line)
    return line if boxed is None else boxed


ANSWER_FORMATS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed_answer,
    "hash": hash_answer,
    "answer_line": answer_line,
}
"""Where a final answer may stand, by the names that a recipe uses."""


def final_answer(text: str, formats: Sequence[str] = ("boxed",)) -> str | None:
    """The answer in the first of the formats that occurs in the text. Raises ValueError for a format that is not known."""
    for name in formats:
        if name not in ANSWER_FORMATS:
            raise ValueError(f"'{name}' is no answer format: choose from {', '.join(ANSWER_FORMATS)}")
    found = (ANSWER_FORMATS[name](text) for name in formats)
    return next((answer for answer in found if answer is not None), None)


def judge_answer(problem: Problem, text: str, formats: Sequence[str] = ("boxed",)) -> Verdict:
    """`format_error` without an answer in one of the formats, else `ok` or `wrong`. Takes time in proportion to the text,
    whatever it says."""
    result = final_answer(text, formats)
    if result is None:
        return Verdict("format_error", 0, 1, f"no final answer in the form {' or '.join(formats)}")
    if same_result(result, problem.answer):
        return Verdict("ok", 1, 1)
    return Verdict("wrong", 0, 1, "the final answer is not the right one")


def same_result(given: str, right: str) -> bool:
    """Whether two results are the same text or the same number, as the module's beginning says."""
    return len(given) <= _LONGEST_RESULT and _same(_normalised(given), _normalised(right))


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
    plain = _compatible(text).replace("\N{MINUS SIGN}", "-")
    return " ".join(plain.split()).removesuffix(".").rstrip()


def _compatible(text: str) -> str:
    """NFKC, but for raised, lowered, circled signs and fractions: 5² and 5② are not 52."""
    if text.isascii():
        return text
    runs = groupby(text, key=lambda sign: unicodedata.decomposition(sign).startswith(_LAID_OUT))
    return "".join("".join(run) if laid_out else unicodedata.normalize("NFKC", "".join(run)) for laid_out, run in runs)
