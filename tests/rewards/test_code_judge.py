"""The judge of function problems against Python itself: same verdicts, limits by processor time, nothing lost."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from available_tiers import TIERS, left_running, sandbox_of

from sapience.problems.families import generate
from sapience.problems.problem import Problem, TestCase
from sapience.rewards.code import ATTEMPTS, CodeJudge
from sapience.rewards.comparison import NotPlain, decoded, is_plain, same
from sapience.rewards.contained_process import Contained
from sapience.rewards.function_runner import keeps_nothing
from sapience.rewards.limits import Limits

FAMILIES = ("codefn", "codelist", "codevalues", "codestr")


@pytest.fixture(scope="module", params=TIERS)
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    with CodeJudge(sandbox_of(request.param), limits=Limits(cpu_seconds=0.4)) as judge:
        yield judge


def problem_of(*tests: tuple[tuple[Any, ...], Any]) -> Problem:
    cases = tuple(TestCase(args, returns) for args, returns in tests)
    return Problem("own", "code", f"Write f. {tests!r}", "", "", entry_point="f", tests=cases)


ADD = problem_of(((2, 3), 5), ((10, -4), 6), ((0, 0), 0))


def mutations(source: str) -> list[str]:
    """Small changes: another number, another operator, another comparison."""
    changed = [re.sub(r"\d+", lambda found: str(int(found[0]) + 1), source, count=1)]
    for old, new in (
        ("+", "-"),
        ("*", "+"),
        (" > ", " >= "),
        (" < ", " <= "),
        ("==", "!="),
        ("max", "min"),
        ("[:", "[1:"),
    ):
        if old in source:
            changed.append(source.replace(old, new, 1))
    return [mutant for mutant in dict.fromkeys(changed) if mutant != source]


def natively_right(problem: Problem, source: str) -> bool:
    names: dict[str, Any] = {}
    try:
        exec(source, names)
        return all(names["f"](*test.args) == test.returns for test in problem.tests)
    except Exception:
        return False


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_sources_are_right_and_mutants_are_judged_as_python_does(judge: CodeJudge, family: str) -> None:
    problems = generate(family, "train", 8, 0)
    for verdict in judge.judge_many([(problem, problem.answer) for problem in problems]):
        assert (verdict.kind, verdict.passed, verdict.total) == ("ok", 6, 6)
    mutants = [(problem, mutant) for problem in problems for mutant in mutations(problem.answer)]
    right = [natively_right(problem, mutant) for problem, mutant in mutants]
    assert right.count(False) >= 8
    assert [verdict.right for verdict in judge.judge_many(mutants)] == right


@pytest.mark.parametrize(
    ("source", "kind", "detail", "passed"),
    [
        ("def f(a, b):\n    return a + b", "ok", "", 3),
        ("f = lambda a, b: sum((a, b))", "ok", "", 3),
        ("from functools import reduce\nimport operator, json, re\ndef f(*v): return reduce(operator.add, v)", "ok", "", 3),
        ("class A:\n    def __call__(self, a, b): return a + b\nf = A()", "ok", "", 3),
        ("def f(a, b):\n    print('working', a, b)\n    return a + b", "ok", "", 3),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\ndef f(a, b): return P(a).a + b", "ok", "", 3),
        ("def f(a, b):\n    return a + b\nif __name__ == '__main__':\n    1 / 0", "ok", "", 3),
        ("def f(a, b):\n    return a - b", "wrong", "", 1),
        ("def f(a, b)\n    return a + b", "compile_error", "SyntaxError", 0),
        ("\0", "compile_error", "null", 0),
        ("x = '\ud800'\ndef f(a, b): return a", "compile_error", "surrogates", 0),
        ("(" * 5000, "compile_error", "", 0),
        ("", "runtime_error", "defines no function f", 0),
        ("def g(a, b):\n    return a + b", "runtime_error", "defines no function f", 0),
        ("f = 5", "runtime_error", "defines no function f", 0),
        ("1 / 0", "runtime_error", "ZeroDivisionError", 0),
        ("def f(a):\n    return a", "runtime_error", "TypeError", 0),
        ("def f(a, b):\n    return 10 // (a - 10) * 0 + a + b", "runtime_error", "ZeroDivisionError", 2),
        ("def f(a, b):\n    return f(a, b)", "runtime_error", "RecursionError", 0),
        ("import os\ndef f(a, b):\n    os.abort()", "runtime_error", "signal", 0),
        ("import os\ndef f(a, b):\n    if a == 10: os._exit(1)\n    return a + b", "runtime_error", "without an answer", 2),
        ("def f(a, b):\n    return bytearray(1 << 30)", "memory", "", 0),
        ("x = [0] * (1 << 30)", "memory", "", 0),
        ("def f(a, b):\n    return 'x' * 100_000", "output_limit", "bytes of answers", 0),
        ("def f(a, b):\n    while True: pass", "timeout", "", 0),
        ("while True: pass", "timeout", "", 0),
        ("def f(a, b):\n    while a == 10: pass\n    return a + b", "timeout", "", 1),
        ("import numpy\ndef f(a, b): return a + b", "runtime_error", "ModuleNotFoundError", 0),
        ("def f(a, b):\n    return input()", "runtime_error", "EOFError", 0),
    ],
)  # fmt: skip
def test_verdicts(judge: CodeJudge, source: str, kind: str, detail: str, passed: int) -> None:
    verdict = judge.judge(ADD, source)
    assert (verdict.kind, verdict.passed, verdict.total) == (kind, passed, 3), verdict
    assert detail in verdict.detail


REMEMBERS = [
    "calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)",
    "count = 0\ndef f(x):\n    global count\n    count = count + 1\n    return count",
    "index = 0\ndef f(x):\n    global index\n    index = index + 1\n    return index",
    "def f(x, items=[]):\n    items.append(x)\n    return len(items)",
    "def f(x, *, items=[]):\n    items.append(x)\n    return len(items)",
    "def f(x):\n    f.count = x if x == 1 else 1 + 0 * f.count if hasattr(f, 'count') else 1\n    return 1",
    "def f(x):\n    f.index = [*f.index, x] if x in vars(f) else [x]\n    return len(f.index)",
    "def make():\n    items = []\n    def f(x):\n        items.append(x)\n        return len(items)\n    return f\nf = make()",
    "class A:\n    count = 0\n    def __call__(self, x):\n        self.count += 1\n        return self.count\nf = A()",
    "def f(x, sum=sum): return sum([1])",
    "import itertools\nf = lambda x, it=itertools.count(1): next(it)",
    "def sum(x, items=[]):\n    items.append(x)\n    return len(items)\ndef f(x): return sum(x)",
    "def f(x):\n    def g(): return g.__dict__\n    f.__dict__.setdefault('x', []).append(x)\n    return len(f.__dict__['x'])",
    "def index(x):\n try: index.count = index.count + 1\n except: index.count = 1\n return index.count\nf = index",
    "import random\ndef f(x):\n    random.index = getattr(random, 'index', 0) + 1\n    return random.index",
]
FORGETS = [
    "def f(x):\n    if x % 3 == 0:\n        return x + 19\n    return x + 9",
    "def f(v): return sum([x * 2 for x in v if x > 3])",
    "f = lambda v: sorted(set(v), key=lambda x: -x)",
    "def f(v):\n    items = []\n    for x in reversed(v):\n        items.append(str(x).upper())\n    return ', '.join(items)",
]


@pytest.mark.parametrize("source", REMEMBERS)
def test_cases_do_not_see_what_others_left_behind(judge: CodeJudge, source: str) -> None:
    assert judge.judge(problem_of(((1,), 1), ((2,), 1), ((3,), 1)), source).right


def test_a_child_of_their_own_is_spared_only_where_nothing_is_kept() -> None:
    def kept(source: str) -> bool:
        names: dict[str, Any] = {"__name__": "submission"}
        exec(source, names)
        return not keeps_nothing(names["f"], source, names)

    assert [source for source in REMEMBERS if not kept(source)] == []
    assert [source for source in FORGETS if kept(source)] == []


def test_a_case_without_memory_costs_the_others_nothing(judge: CodeJudge) -> None:
    source = "def f(a, b):\n    if a == 10:\n        return len([0] * (b * -(1 << 30)))\n    return a + b"
    verdict = judge.judge(ADD, source)
    assert (verdict.kind, verdict.passed) == ("memory", 2), verdict


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -7, 10**40, 1.5, -0.0, 1e300, "", "snow ☃ \"quoted\" \\ \n \0 \ud800", [], [[1, [2, "x"]], {}],
     {"a": [1, None], "": {"b": False}}, (), (1, (2, [3])), {1, "a"}, set(), {1: {2: ()}, (1, 2): "x", None: True}],
    ids=repr,
)  # fmt: skip
def test_values_go_in_and_come_out_unchanged(judge: CodeJudge, value: Any) -> None:
    assert judge.judge(problem_of(((value,), value)), "def f(x): return x").right


def test_processor_time_is_shared_by_all_tests(judge: CodeJudge) -> None:
    """Each case alone would be in time."""
    source = "import time\ndef f(x):\n    while time.process_time() < 0.15: pass\n    return x"
    problem = problem_of(*(((number,), number) for number in range(8)))
    verdict = judge.judge(problem, source)
    assert verdict.kind == "timeout" and 1 <= verdict.passed <= 4


def test_a_program_that_waits_is_no_infrastructure_error(judge: CodeJudge) -> None:
    """Otherwise sleeping would be a way around a bad reward."""
    calls = ("time.sleep(60)", "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(60)", "threading.Event().wait()")
    sources = [f"import os, signal, time, threading\ndef f(a, b): {call}" for call in calls]
    with CodeJudge(judge.sandbox, workers=3, limits=Limits(wall_seconds=1.0)) as hasty:
        verdicts = hasty.judge_many([(ADD, source) for source in sources])
    assert {verdict.kind for verdict in verdicts} <= {"timeout", "runtime_error"}, verdicts


def test_time_on_the_wall_never_makes_an_answer_wrong(judge: CodeJudge) -> None:
    """Of functions that take so long that nobody can look for the first time when they have ended."""
    slow = "def f(a, b):\n    for _ in range(6_000_000): pass\n    return a "
    for wall in (1e-9, 0.001, 0.004):
        with CodeJudge(judge.sandbox, limits=Limits(wall_seconds=wall)) as hasty:
            verdicts = hasty.judge_many([(ADD, slow + "+ b"), (ADD, slow + "- b")])
        assert [verdict.kind for verdict in verdicts] == ["infra_error", "infra_error"], verdicts
    with CodeJudge(judge.sandbox, limits=Limits(cpu_seconds=9.0, wall_seconds=0.3)) as hasty:
        assert hasty.judge(ADD, "while True: pass").kind == "infra_error"


class Counting:
    """A sandbox that plays back what it is told to and counts."""

    tier = "bubblewrap"
    description = "none"
    weaker = False

    def __init__(self, *played: Contained) -> None:
        self.played, self.runs, self.lock = list(played), 0, threading.Lock()

    def run(self, program: str, payload: Any, limits: Limits) -> Contained:
        time.sleep(0.01)
        with self.lock:
            self.runs += 1
            return self.played.pop(0) if len(self.played) > 1 else self.played[0]


BROKEN = Contained(False, "exit", 1, complaint="no more processes")
RIGHT = Contained(True, "exit", 0, b'{"case":0,"answer":5}\n{"case":1,"answer":6}\n{"case":2,"answer":0}\n')


@pytest.mark.parametrize("failure", [BROKEN, Contained(True, "wall", -9), Contained(True, "lost", -9)])
def test_infrastructure_errors_are_repeated_and_then_told(failure: Contained) -> None:
    sandbox = Counting(failure)
    with CodeJudge(sandbox) as judge:  # type: ignore[arg-type]
        assert judge.judge(ADD, "x").kind == "infra_error"
        assert sandbox.runs == ATTEMPTS
        sandbox.played = [failure, RIGHT]
        assert judge.judge(ADD, "x").kind == "ok", "an infrastructure error is not remembered"
        assert sandbox.runs == ATTEMPTS + 2


def test_the_same_submission_runs_once() -> None:
    sandbox = Counting(RIGHT)
    with CodeJudge(sandbox, workers=4, remembered=2) as judge:  # type: ignore[arg-type]
        assert {verdict.kind for verdict in judge.judge_many([(ADD, "a")] * 20)} == {"ok"}
        judge.judge(ADD, "a")
        assert sandbox.runs == 1
        other = problem_of(((2, 3), 6), ((10, -4), 6), ((0, 0), 0))
        assert judge.judge(other, "a").kind == "wrong", "outcomes are remembered, not verdicts"
        assert sandbox.runs == 1
        judge.judge(problem_of(((2.0, 3), 5), ((10, -4), 6), ((0, 0), 0)), "a")
        assert sandbox.runs == 2, "2.0 is another argument than 2"
        judge.judge(ADD, "b")
        judge.judge(ADD, "a")
        assert sandbox.runs == 4, "only so many are remembered"


@pytest.mark.parametrize(
    "output",
    [b"", b"\n" * 50, b"{", b"[" * 50_000, b'{"case":0}', b'{"case":true,"answer":5}', b'{"case":-1,"answer":5}',
     b'{"case":99,"answer":5}', b'{"case":0,"kind":"ok","detail":""}', b'{"case":-1,"kind":"infra_error","detail":""}',
     b'{"case":0,"answer":NaN}', b'{"case":0,"answer":' + b"9" * 5000 + b"}", b'{"case":"0","answer":5}', b"\xff\xfe",
     b'{"case":0,"answer":4}\n{"case":0,"answer":5}'],
)  # fmt: skip
def test_whatever_a_sandbox_says_gives_a_verdict(output: bytes) -> None:
    right_for_the_others = b'\n{"case":1,"answer":6}\n{"case":2,"answer":0}\n'
    with CodeJudge(Counting(Contained(True, "exit", 0, output + right_for_the_others))) as judge:  # type: ignore[arg-type]
        assert judge.judge(ADD, "x").kind in ("wrong", "runtime_error")


def test_problems_without_usable_tests_are_refused() -> None:
    with CodeJudge(Counting(RIGHT)) as judge:  # type: ignore[arg-type]
        for problem in (problem_of(), problem_of(((1,), b"bytes")), problem_of(((1,), float("nan")))):
            with pytest.raises(ValueError, match="tests"):
                judge.judge(problem, "x")


def test_comparison_is_strict_in_types() -> None:
    assert same([1, {"a": [True, None]}], [1, {"a": [True, None]}])
    for answer, expected in ((True, 1), (1, True), (0, False), (1.0, 1), ("1", 1), (None, 0), ([1], [1, 2]), ([], {}),
                             ({"a": 1}, {"a": 1, "b": 2}), ({"a": True}, {"a": 1}), ([1, [True]], [1, [1]])):  # fmt: skip
        assert not same(answer, expected), (answer, expected)
    assert same(0.1 + 0.2, 0.3) and same(2, 2.0) and not same(2.000001, 2.0) and not same("2.0", 2.0)
    assert not same(True, 1.0) and not same(10**400, 1.0) and same(1.0, 1, 0.0) and not same(1.5, 1, 0.0)
    assert not same([1, 2], (1, 2)) and not same((1, 2), [1, 2]) and same((1, (2,)), (1, (2,)))
    assert same({3, 1}, {1, 3}) and not same({1}, {2}) and not same({True}, {1}) and same({1: (2,)}, {1: (2,)})
    assert same(1.01, 1.0, 0.05) and same([10], [10.4], 0.05) and not same(1.06, 1.0, 0.05)
    assert is_plain([1, "x", {"a": None}, (1,), {2}, {1: 2}]) and not is_plain(float("inf")) and not is_plain(b"")


@pytest.mark.parametrize("told", [{"a": 1}, {"t": 3}, {"t": [], "s": []}, {"d": [1]}, {"s": [[1]]}, {"d": [[[1], 2]]}])
def test_an_object_that_is_no_value_is_no_answer(told: Any) -> None:
    with pytest.raises(NotPlain):
        decoded([told])


def test_nothing_is_left_behind(judge: CodeJudge) -> None:
    endless = "while True: pass"
    child = f"import os\ndef f(a, b):\n    if os.fork() == 0:\n        {endless}\n    return a + b"
    thread = "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()\n"
    sources = [child, thread + "def f(a, b): return a + b"]
    judge.judge_many([(ADD, source) for source in sources])
    patience = time.monotonic() + 5
    while left_running() and time.monotonic() < patience:
        time.sleep(0.02)
    assert not left_running()
