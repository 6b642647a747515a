"""One problem and one solution from files, for `sapience judge`.

A problem is a JSON object: `{"language": …, "tests": [{"stdin": …, "stdout": …}]}` for a program, or with `entry_point` and
`tests` of `{"args": […], "returns": …}` for a function; `limits` may give cpu_seconds, wall_seconds, memory_mb,
output_bytes and processes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from sapience.problems.problem import Language, Problem, StreamCase, TestCase
from sapience.recipe.errors import UserError
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits
from sapience.rewards.sandbox import choose_sandbox
from sapience.rewards.verdict import Verdict


def judge_files(problem: Path, solution: Path) -> Verdict:
    """The verdict on a solution's source. Raises UserError for files that cannot be read and problems that are none."""
    asked, limits = read_problem(problem)
    try:
        source = solution.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"the solution {solution} cannot be read ({error.strerror}): give a file of source code"
        ) from None
    with CodeJudge(choose_sandbox(), workers=1) as judge:
        try:
            return judge.judge(asked, source, limits)
        except ValueError as error:
            raise UserError(f"{problem}: {error}") from None


def read_problem(path: Path) -> tuple[Problem, Limits]:
    """The problem in a file and the limits that it asks for. Raises UserError that names the key which is wrong."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the problem {path} cannot be read ({error.strerror}): give a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the problem {path} is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"the problem {path} is no JSON object: it needs `language` and `tests`")
    language = record.get("language", "python")
    if language not in get_args(Language):
        raise UserError(f"{path}: language {language!r} is not known: {', '.join(get_args(Language))} are")
    entry_point = record.get("entry_point") or ""
    tests = record.get("tests")
    if not isinstance(tests, list) or not tests or not isinstance(entry_point, str):
        raise UserError(f"{path}: `tests` is no list of tests, or `entry_point` no name")
    cases = tuple(
        _case(test, bool(entry_point), f"{path}: test {number}") for number, test in enumerate(tests, start=1)
    )
    question = str(record.get("question", path.stem))
    return Problem("file", "code", question, "", "", entry_point, cases, language), _limits(
        record.get("limits", {}), path
    )


def _case(test: Any, of_function: bool, where: str) -> TestCase | StreamCase:
    if not isinstance(test, dict):
        raise UserError(f"{where} is no JSON object")
    if of_function:
        if not isinstance(test.get("args"), list) or "returns" not in test:
            raise UserError(f"{where} needs `args`, a list, and `returns`, as a function's tests have them")
        tolerance = test.get("tolerance")
        if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance >= 0):
            raise UserError(f"{where} has a `tolerance` that is no number of zero or more")
        return TestCase(tuple(test["args"]), test["returns"], tolerance)
    if not isinstance(test.get("stdin", ""), str) or not isinstance(test.get("stdout"), str):
        raise UserError(f"{where} needs `stdin` and `stdout`, both texts, as a program's tests have them")
    return StreamCase(test.get("stdin", ""), test["stdout"])


def _limits(record: Any, path: Path) -> Limits:
    known = {field.name for field in fields(Limits)}
    if not isinstance(record, dict) or set(record) - known:
        raise UserError(f"{path}: `limits` may hold {', '.join(sorted(known))}")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in record.values()):
        raise UserError(f"{path}: `limits` are numbers")
    try:
        return Limits(**record)
    except ValueError as error:
        raise UserError(f"{path}: limits: {error}") from None
