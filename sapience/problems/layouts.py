r"""A record of a published problem set as a `Problem`: which layout it has, and one function for each.

    question_answer   question, answer                             the answer as it stands
    gsm8k             question, answer with `#### 12` at its end   worked steps; calculator marks `<<3*4=12>>` are taken out
    math              problem, solution and/or answer              without an answer the solution's last `\boxed{…}` is it
    cmath             question, golden
    humaneval, mbpp, apps, livecodebench                           see `code_layouts` and `contest_layouts`

A layout is told by the keys of a record, so that a file needs no description; a recipe may name it nevertheless. Empty
lines are taken out of worked steps, since one ends an answer in the plain format. Nothing of a record is executed.
Not covered: questions with pictures, and answers of several choices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sapience.problems.code_layouts import humaneval, mbpp, mbpp_split
from sapience.problems.contest_layouts import apps, livecodebench
from sapience.problems.problem import ANSWER_MARK, Domain, Problem, Split

Layout = Literal["question_answer", "gsm8k", "math", "cmath", "humaneval", "mbpp", "apps", "livecodebench"]
Record = Mapping[str, Any]

_CALCULATION = re.compile(r"<<[^>]*>>")
_EMPTY_LINES = re.compile(r"\n\s*\n")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")


def layout_of(record: Record) -> Layout:
    """The layout that a record's keys tell. Raises ValueError for keys of none."""
    keys = record.keys()
    if "question_content" in keys:
        return "livecodebench"
    if keys >= {"question", "input_output"}:
        return "apps"
    if keys >= {"prompt", "test", "entry_point"}:
        return "humaneval"
    if keys >= {"code", "test_list"}:
        return "mbpp"
    if "problem" in keys and ("solution" in keys or "answer" in keys):
        return "math"
    if keys >= {"question", "golden"}:
        return "cmath"
    if "question" in keys or "answer" in keys:
        answer = record.get("answer")
        return "gsm8k" if isinstance(answer, str) and "####" in answer else "question_answer"
    names = ", ".join(sorted(map(str, keys))[:8]) or "none"
    raise ValueError(f"of no known layout (its keys: {names})")


def problem_from(record: Record, layout: Layout, family: str, domain: Domain | None = None) -> Problem:
    """The record as a problem of `family`; `domain` (None: the layout's own) counts for layouts of text alone.

    Raises ValueError with the reason where the record is none of this layout.
    """
    read = _TEXT_LAYOUTS.get(layout)
    if read is not None:
        return read(record, family, domain or "math")
    return _CODE_LAYOUTS[layout](record, family)


def official_split(record: Record, layout: Layout) -> Split | None:
    """The side on which a set's authors put the record; None where they leave it to the file."""
    return mbpp_split(record) if layout == "mbpp" else None


def published_text(record: Record, layout: Layout) -> str:
    """What of a record may stand in a crawl: the question as its authors worded it, not as it is asked here."""
    key = {"humaneval": "prompt", "livecodebench": "question_content", "math": "problem"}.get(layout, "question")
    if layout == "mbpp":
        key = "text" if "text" in record else "prompt"
    return str(record[key])


def question_answer(record: Record, family: str, domain: Domain) -> Problem:
    """A question and its answer, which may be a number. Raises ValueError."""
    answer = _answer(record, "answer")
    return Problem(family, domain, _text(record, "question"), answer, answer)


def gsm8k(record: Record, family: str, domain: Domain) -> Problem:
    """Worked steps, then `#### 12`. Raises ValueError."""
    question, text = _text(record, "question"), _text(record, "answer")
    steps, marked, final = text.rpartition("####")
    final = final.strip()
    if not final:
        raise ValueError("nothing stands behind '####'")
    if not marked:
        raise ValueError("'answer' has no '####' before the result")
    return _worked(family, domain, question, final, _CALCULATION.sub("", steps))


def math_problem(record: Record, family: str, domain: Domain) -> Problem:
    """A problem in LaTeX with its solution, or its answer, or both. Raises ValueError."""
    question = _text(record, "problem")
    solution = record.get("solution")
    if solution is not None and not isinstance(solution, str):
        raise ValueError("'solution' is no text")
    if record.get("answer") is not None:
        return _worked(family, domain, question, _answer(record, "answer"), solution or "")
    boxed = last_box(solution or "")
    if not boxed:
        raise ValueError("no 'answer', and no \\boxed{…} in 'solution'")
    return _worked(family, domain, question, boxed, solution or "")


def cmath(record: Record, family: str, domain: Domain) -> Problem:
    """A question in Chinese with its result. Raises ValueError."""
    answer = _answer(record, "golden")
    return Problem(family, domain, _text(record, "question"), answer, answer)


def last_box(text: str) -> str:
    r"""Content of the last `\boxed{…}` (or `\boxed 5`) of a LaTeX text; empty where there is none or its brace stays open."""
    found = None
    for found in _BOX.finditer(text):  # noqa: B007, the last one is wanted
        pass
    if found is None:
        return ""
    if not found[0].endswith("{"):
        return re.split(r"[\s$]", text[found.end() :], maxsplit=1)[0].strip()
    depth, place = 1, found.end()
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
            if depth == 0:
                return text[found.end() : place].strip()
        place += 1
    return ""


def _worked(family: str, domain: Domain, question: str, answer: str, steps: str) -> Problem:
    steps = _EMPTY_LINES.sub("\n", steps).strip()
    return Problem(family, domain, question, answer, f"{steps}{ANSWER_MARK}{answer}" if steps else answer)


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{key}' is missing or empty")
    return value.strip()


def _answer(record: Record, key: str) -> str:
    """A text or a finite number."""
    value = record.get(key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"'{key}' is no finite number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(record, key)


_TEXT_LAYOUTS: dict[Layout, Callable[[Record, str, Domain], Problem]] = {
    "question_answer": question_answer, "gsm8k": gsm8k, "math": math_problem, "cmath": cmath,
}  # fmt: skip
_CODE_LAYOUTS: dict[Layout, Callable[[Record, str], Problem]] = {
    "humaneval": humaneval, "mbpp": mbpp, "apps": apps, "livecodebench": livecodebench,
}  # fmt: skip
