"""A user's own problems: JSON lines with `question` and `answer`, GSM8K's layout among them.

GSM8K writes worked steps and then `#### 12`; its calculator marks `<<3*4=12>>` are taken out, and empty lines, which
end an answer in the plain format. A line that cannot be
used is put aside with its reason and counted, never fatal, never silently lost. The split is the same content hash
as everywhere (`problem.split_of`), so a user's set needs no files of its own for training and test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sapience.problems.problem import ANSWER_MARK, Domain, Problem
from sapience.recipe.errors import UserError

LONGEST_LINE = 1 << 20
"""Bytes; longer lines are put aside unread."""
_CALCULATION = re.compile(r"<<[^>]*>>")
_EMPTY_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was put aside, counted from one."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """What a file gave: problems with different questions, in the file's order, and the lines that were put aside."""

    problems: tuple[Problem, ...]
    bad_lines: tuple[BadLine, ...]


def load_jsonl(path: Path, domain: Domain = "general") -> LoadedProblems:
    """Problems of a file; the family is the file's name without its ending.

    Raises UserError where the file is missing, cannot be read or holds no usable problem.
    """
    problems: dict[str, Problem] = {}
    bad: list[BadLine] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_bounded_lines(file), start=1):
                if line is None:
                    bad.append(BadLine(number, f"longer than {LONGEST_LINE} bytes"))
                    continue
                if not line.strip():
                    continue
                try:
                    problem = _problem(line, path.stem, domain)
                except ValueError as error:
                    bad.append(BadLine(number, str(error)))
                    continue
                if problem.question in problems:
                    bad.append(BadLine(number, "the same question again"))
                    continue
                problems[problem.question] = problem
    except FileNotFoundError:
        raise UserError(f"the problem file {path} does not exist: check the path in the recipe") from None
    except OSError as error:
        raise UserError(f"the problem file {path} cannot be read ({error.strerror}): check its rights") from error
    if not problems:
        first = f"; line {bad[0].number}: {bad[0].reason}" if bad else ""
        raise UserError(
            f'{path} holds no usable problem{first}: each line has to be {{"question": "…", "answer": "…"}}'
        )
    return LoadedProblems(tuple(problems.values()), tuple(bad))


def _bounded_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines, and None for each that is too long; of such a line never more than the bound is in memory."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
        yield None


def json_object(line: bytes) -> dict[str, Any]:
    """The object in a line of a JSONL file. Raises ValueError with the reason where there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which no UTF-8 file can hold") from None
    return record


def _problem(line: bytes, family: str, domain: Domain) -> Problem:
    """Raises ValueError with the reason why a line is no problem."""
    record = json_object(line)
    question, answer = record.get("question"), record.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"'{name}' is missing or empty")
    steps, marked, final = str(answer).rpartition("####")
    final = final.strip()
    if marked and not final:
        raise ValueError("nothing stands behind '####'")
    steps = _EMPTY_LINES.sub("\n", _CALCULATION.sub("", steps)).strip()
    worked = f"{steps}{ANSWER_MARK}{final}" if steps else final
    return Problem(family, domain, str(question).strip(), final, worked)
