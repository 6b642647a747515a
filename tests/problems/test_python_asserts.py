"""Asserts become the cases that executing them would try; what cannot be read says why. The published sets prove it."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_problems import published_records

from sapience.problems.layouts import layout_of, problem_from
from sapience.problems.problem import Problem, TestCase
from sapience.problems.python_asserts import MOST_STATEMENTS, called_functions, read_asserts, read_check


def cases(source: str, *parameters: str) -> tuple[TestCase, ...]:
    read = read_asserts([source], "f", parameters)
    assert read.unread == ()
    return read.cases


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f(1, 'a') == [1]", TestCase((1, "a"), [1], 0.0)),
        ("assert 3 == f()", TestCase((), 3, 0.0)),
        ("assert f() == {'a': (True, 'b')}", TestCase((), {"a": (True, "b")}, 0.0)),
        ("assert f([]) is None, 'nothing'", TestCase(([],), None)),
        ("assert f(1) is True", TestCase((1,), True)),
        ("assert f({1: (2, {3})})", TestCase(({1: (2, {3})},), True)),
        ("assert not f(-1)", TestCase((-1,), False)),
        ("assert f(2 ** 10 - 1) == 6 / 4", TestCase((1023,), 1.5)),
        ("assert abs(f(3.5) - 0.5) < 1e-6", TestCase((3.5,), 0.5, 1e-6)),
        ("assert 1e-6 > abs(1000 - f())", TestCase((), 1000.0, 1e-6 / 1000)),
        ("import math\nassert math.isclose(f(2), 20, rel_tol=0.01)", TestCase((2,), 20.0, 0.01)),
        ("assert isclose(f(2), 0.5, abs_tol=0.1, rel_tol=0)", TestCase((2,), 0.5, 0.1)),
        ("assert round(f(2), 2) == 1.41", TestCase((2,), 1.41, 0.005 / 1.41)),
        ("assert tuple(f([1])) == tuple([2])", TestCase(([1],), [2], 0.0)),
        ("a = [1, 2]\nb = c = a * 2\nassert f(b, *a) == c", TestCase(([1, 2, 1, 2], 1, 2), [1, 2, 1, 2], 0.0)),
        ("(x, y) = 1, 'q'\nassert f(x) == y", TestCase((1,), "q")),
        ("assert f(y=2, x=1) == 3", TestCase((1, 2), 3, 0.0)),
        ("assert f('\\d') == len('ab')", TestCase(("\\d",), 2, 0.0)),
    ],
)
def test_forms_of_asserts(source: str, expected: TestCase) -> None:
    assert cases(source, "x", "y") == (expected,)


def test_loops_are_unrolled() -> None:
    nested = "for a, b in [(1, 2), (3, 4)]:\n    for n in range(2):\n        assert f(a, n) == str(b)"
    assert cases(nested) == tuple(TestCase((a, n), str(b)) for a, b in ((1, 2), (3, 4)) for n in (0, 1))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("assert f(g(1)) == 2", "g(1) is no literal"),
        ("assert set(f(1)) == {1}", "set(f(1)) has to be executed"),
        ("assert int(f(1)) == 1", "int(f(1)) has to be executed"),
        ("assert f(1) > 2", "compared otherwise than for equality"),
        ("assert f(1) is 'a'", "compared by identity"),
        ("assert f(1) == f(2)", "f(2) is no literal"),
        ("assert f(1) == 1 and f(2) == 2", "is no comparison"),
        ("assert f(b'x') == 1", "more than plain values"),
        ("assert f(1e999) == 1", "more than plain values"),
        ("assert f('a' * 10 ** 9) == 1", "too long"),
        ("assert f(1 / 0) == 1", "has no value"),
        ("assert f({[]: 1}) == 1", "has no value"),
        ("assert f(z=1) == 1", "names arguments that have no place"),
        ("assert f(y=1) == 1", "names arguments that have no place"),
        ("x = 1\nx += g()\nassert f(x) == 1", "x is no literal"),
        ("a = [1]\nb = a\nb.append(2)\nassert f(a) == 1", "a is no literal"),
        ("if g():\n    assert f(1) == 1", "has to be executed"),
        ("for n in g():\n    assert f(n) == n", "g() is no literal"),
        ("for n in {1, 2}:\n    assert f(n) == n", "no order"),
        ("for n in range(3):\n    assert f(n) == n\n    assert f(n) == g(n)", "cannot be unrolled"),
        (f"for n in range({MOST_STATEMENTS}):\n    assert f(n) == n", "more than"),
        ("for n in range(10 ** 9):\n    assert f(n) == n", "a range of more than"),
        ("assert f(", "no Python"),
    ],
)
def test_what_has_to_be_executed_is_no_case(source: str, reason: str) -> None:
    read = read_asserts([source], "f", ["x", "y"])
    assert read.cases == () and len(read.unread) == 1 and reason in read.unread[0]


def test_cases_share_nothing_and_the_rest_is_kept() -> None:
    read = read_asserts(["a = [[1]]", "assert f(a) == 1", "assert f(g()) == 1", "assert f(2) == 2"], "f")
    assert [case.returns for case in read.cases] == [1, 2] and len(read.unread) == 1
    first, second = cases("a = [[1]]\nassert f(a) == 1\nassert f(a) == 1")
    assert first == second and first.args[0][0] is not second.args[0][0]
    assert called_functions(["assert g(f(1)) == f(2)", "assert ("]) == ["f", "g"]


SIMPLE = st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text(max_size=3)
PLAIN = st.recursive(
    SIMPLE | st.sets(st.integers(0, 9), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)
FORMS = st.sampled_from(["plain", "swapped", "named", "loop"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(PLAIN, max_size=3), PLAIN, st.sampled_from(["plain", "swapped", "named", "loop"])),
        max_size=5,
    )
)
def test_cases_are_what_executing_the_asserts_tries(wanted: list[tuple[list[Any], Any, str]]) -> None:
    lines = ["pass"]
    for args, returns, form in wanted:
        call = f"candidate({', '.join(map(repr, args))})"
        if form == "plain":
            lines.append(f"assert {call} == {returns!r}")
        elif form == "swapped":
            lines.append(f"assert {returns!r} == {call}")
        elif form == "named":
            lines += [f"a, r = {tuple(args)!r}, {returns!r}", "assert candidate(*a) == r"]
        else:
            lines += [f"for item in {args!r}:", f"    assert candidate(item) == {returns!r}"]
    source = "def check(candidate):\n" + "\n".join(f"    {line}" for line in lines)
    tried: list[tuple[Any, ...]] = []
    compared: list[Any] = []

    class Answer:
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return True

        __hash__ = None  # type: ignore[assignment]

    def candidate(*args: Any) -> Answer:
        tried.append(args)
        return Answer()

    space: dict[str, Any] = {}
    exec(source, space)
    space["check"](candidate)
    read = read_check(source)
    assert read.unread == ()
    assert repr([case.args for case in read.cases]) == repr(tried)
    assert repr([case.returns for case in read.cases]) == repr(compared)


def converted(records: list[dict[str, Any]]) -> tuple[list[Problem], list[str]]:
    problems, aside = [], []
    for record in records:
        try:
            problems.append(problem_from(record, layout_of(record), "set"))
        except ValueError as error:
            aside.append(f"{record['task_id']}: {error}")
    return problems, aside


CHECK = """
import json, math, sys, warnings
warnings.simplefilter("ignore")
failed = []
for number, (source, name, cases) in enumerate(eval(sys.stdin.read(), {"nan": float("nan")})):
    space = {"__name__": "solution"}
    exec(source, space)
    for args, returns, tolerance in cases:
        answer = space[name](*args)
        right = answer == returns if not tolerance else math.isclose(answer, returns, rel_tol=tolerance, abs_tol=tolerance)
        if not right:
            failed.append(number)
sys.__stdout__.write("FAILED " + json.dumps(sorted(set(failed))))
"""


def failing(problems: list[Problem]) -> list[int]:
    """Numbers of problems whose own solution fails its cases, executed natively: published code that is known to be safe."""
    given = [
        (p.answer, p.entry_point, [(t.args, t.returns, t.tolerance) for t in p.tests if isinstance(t, TestCase)])
        for p in problems
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHECK], input=repr(given), capture_output=True, text=True, timeout=120, check=True
    )
    found: list[int] = json.loads(done.stdout.rsplit("FAILED ", 1)[1])
    return found


def test_humaneval_becomes_problems_whose_solutions_pass() -> None:
    records = published_records("humaneval.jsonl.zst")
    problems, aside = converted(records)
    assert len(records) == 164 and [line.split(":")[0] for line in aside] == [
        "HumanEval/32",
        "HumanEval/38",
        "HumanEval/50",
    ]
    unread = [len(read_check(record["test"]).unread) for record in records]
    assert sum(count > 0 for count in unread) == 6 and sum(len(p.tests) for p in problems) == 1130
    assert failing(problems) == []


def test_mbpp_becomes_problems_whose_solutions_pass() -> None:
    records = published_records("mbpp.jsonl.zst")
    problems, aside = converted(records)
    put_aside = [int(line.split(":")[0]) for line in aside]
    assert len(records) == 974 and put_aside == [124, 367, 533, 590, 596, 601, 912, 927]
    assert sum(len(p.tests) for p in problems) == 2898
    assert all("\n\n" not in p.answer and p.entry_point in p.question for p in problems)
    assert failing(problems) == []


@pytest.mark.parametrize(
    "source",
    [
        "assert f([[1] * 100000] * 100000) == 1",
        "assert f(str([[1] * 99999] * 99999)) == 1",
        "assert f({((1,) * 100000,) * 100000}) == 1",
        "x = 'a' * 100000\n" + "x = x + x\n" * 60 + "assert f(x) == 1",
        "x = 2 ** 99999\nassert f(x * x) == 1",
        "for n in range(10 ** 30):\n    assert f(n) == 1",
        "x = [1] * 100000\n" + "assert f(x) == 1\n" * 100,
        "x = [1] * 100000\nassert f(" + "x, " * 1000 + ") == 1",
    ],
)
def test_a_hostile_test_costs_little(source: str) -> None:
    begin = time.process_time()
    read = read_asserts([source], "f")
    assert read.unread and time.process_time() - begin < 5
