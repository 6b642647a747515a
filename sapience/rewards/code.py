"""The judge of function problems: inputs go into a sandbox, answers come out, and they are compared out here.

The expected values never enter the sandbox. Whatever a submission does in there (exit with 0, print a marker, answer
with an object that equals everything, read files, hook into the exit), it can only ever say what it believes the
answers to be, as JSON text. So nothing has to be filtered out of its source.

All tests of a submission run in one sandbox, each in a child process of its own (`function_runner`). A submission is
known by its content: what was run once with the same arguments is not run again. Processor time decides about
`timeout`, for all tests together. Where the machine failed, the run is repeated, and after `ATTEMPTS` the verdict is
`infra_error`, which the caller drops and counts.

Not covered: programs that read and write standard streams, other languages, functions whose answer is no JSON value,
answers that depend on the order of a set of strings (Python varies it from run to run).
"""

from __future__ import annotations

import hashlib
import json
import marshal
import signal
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, cast, get_args

from sapience.problems.problem import Problem
from sapience.rewards.comparison import is_json, same
from sapience.rewards.contained_job import program_text
from sapience.rewards.contained_process import Contained
from sapience.rewards.limits import Limits
from sapience.rewards.sandbox import Sandbox
from sapience.rewards.verdict import Verdict, VerdictKind

ATTEMPTS = 3
_DETAIL_LETTERS = 300
_TOLD_BY_THE_RUNNER = frozenset(get_args(VerdictKind)) - {"ok", "wrong", "infra_error"}


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: VerdictKind
    detail: str


@dataclass(frozen=True, slots=True)
class _Answer:
    value: Any


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a submission did: one entry for each case, and what befell all of them, if anything."""

    cases: tuple[_Answer | _Failure, ...]
    whole: _Failure | None = None


class CodeJudge:
    """Judges submissions in `workers` sandboxes at a time; a context manager.

    The last `remembered` outcomes are kept. Every method may be called from several threads.
    """

    def __init__(
        self, sandbox: Sandbox, workers: int = 2, limits: Limits | None = None, remembered: int = 4096
    ) -> None:
        self.sandbox = sandbox
        self.limits = limits or Limits()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        self._lock = Lock()
        self._outcomes: OrderedDict[str, Future[_Outcome]] = OrderedDict()
        self._remembered = remembered

    def judge(self, problem: Problem, source: str) -> Verdict:
        return self.judge_many([(problem, source)])[0]

    def judge_many(self, submissions: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each submission, in order. Raises ValueError for a problem that has no usable tests."""
        for problem, _ in submissions:
            _check(problem)
        pending = [self._outcome(problem, source) for problem, source in submissions]
        return [_verdict(problem, future.result()) for (problem, _), future in zip(submissions, pending, strict=True)]

    def close(self) -> None:
        """What is under way is brought to its end, what waits is not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> CodeJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, problem: Problem, source: str) -> Future[_Outcome]:
        cases = [list(test.args) for test in problem.tests]
        content = marshal.dumps((source, problem.entry_point, cases), 2)  # version 2 depends on the values alone
        key = hashlib.sha256(content).hexdigest()
        with self._lock:
            future = self._outcomes.pop(key, None)
            if future is None or _is_lost(future):
                future = self._pool.submit(self._run, source, problem.entry_point, cases)
            self._outcomes[key] = future
            while len(self._outcomes) > self._remembered:
                self._outcomes.popitem(last=False)
            return future

    def _run(self, source: str, entry_point: str, cases: list[list[Any]]) -> _Outcome:
        outcome = _Outcome(())
        payload = (source, entry_point, cases, self.limits.cpu_seconds)
        for _ in range(ATTEMPTS):
            contained = self.sandbox.run(program_text("function_runner"), payload, self.limits)
            outcome = _read(contained, len(cases), self.limits)
            if outcome.whole is None or outcome.whole.kind != "infra_error":
                break
        return outcome


def _check(problem: Problem) -> None:
    if not problem.entry_point or not problem.tests:
        raise ValueError(f"a code problem needs an entry point and tests, '{problem.question[:80]}' has none")
    if not all(is_json([*test.args, test.returns]) for test in problem.tests):
        raise ValueError(f"tests hold JSON values only (lists, no tuples), those of '{problem.question[:80]}' do not")


def _is_lost(future: Future[_Outcome]) -> bool:
    """Ended without an outcome that says something about the submission."""
    if not future.done():
        return False
    if future.cancelled() or future.exception() is not None:
        return True
    whole = future.result().whole
    return whole is not None and whole.kind == "infra_error"


def _read(contained: Contained, count: int, limits: Limits) -> _Outcome:
    if not contained.started:
        reason = contained.complaint or f"{contained.ending}, status {contained.status}"
        return _Outcome((), _Failure("infra_error", f"the sandbox did not start: {reason}"[:_DETAIL_LETTERS]))
    if contained.ending == "wall":
        return _Outcome((), _Failure("infra_error", f"no processor for it within {limits.wall_seconds:g} s"))
    if contained.ending == "lost":
        return _Outcome((), _Failure("infra_error", "the sandbox was ended from outside"))
    cases: list[_Answer | _Failure | None] = [None] * count
    whole = _whole_failure(contained, limits)
    for line in contained.output[: limits.output_bytes].splitlines():
        case, told = _parsed(line)
        if case == -1 and isinstance(told, _Failure):
            whole = whole or told
        elif told is not None and 0 <= case < count and cases[case] is None:
            cases[case] = told
    missing = whole or _unanswered(contained.status)
    return _Outcome(tuple(case or missing for case in cases), whole)


def _whole_failure(contained: Contained, limits: Limits) -> _Failure | None:
    if contained.ending == "output":
        return _Failure("output_limit", f"more than {limits.output_bytes} bytes of answers")
    if contained.ending == "idle":
        return _Failure("timeout", f"waited or overspent, without an end after {limits.wall_seconds:g} s")
    return None


def _unanswered(status: int) -> _Failure:
    """Why a case has no answer when the runner has ended."""
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return _Failure("timeout", "processor time used up")
    if status < 0:
        return _Failure("runtime_error", f"the program was ended by signal {-status}")
    return _Failure("runtime_error", "the program ended without an answer")


def _parsed(line: bytes) -> tuple[int, _Answer | _Failure | None]:
    """The case a line speaks of and what it says; a line that nobody should have written says nothing."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return -1, None
    if not isinstance(record, dict) or type(record.get("case")) is not int:
        return -1, None
    if "answer" in record:
        return record["case"], _Answer(record["answer"])
    kind, detail = record.get("kind"), record.get("detail")
    if kind in _TOLD_BY_THE_RUNNER and isinstance(detail, str):
        return record["case"], _Failure(cast(VerdictKind, kind), detail[:_DETAIL_LETTERS])
    return -1, None


def _verdict(problem: Problem, outcome: _Outcome) -> Verdict:
    total = len(problem.tests)
    if outcome.whole is not None and outcome.whole.kind == "infra_error":
        return Verdict("infra_error", 0, total, outcome.whole.detail)
    failures = [_judged(case, test.returns) for case, test in zip(outcome.cases, problem.tests, strict=True)]
    failures_met = [failure for failure in failures if failure is not None]
    passed = total - len(failures_met)
    worst = outcome.whole or (failures_met[0] if failures_met else None)
    if worst is None:
        return Verdict("ok", passed, total)
    return Verdict(worst.kind, passed, total, worst.detail)


def _judged(case: _Answer | _Failure, expected: Any) -> _Failure | None:
    if isinstance(case, _Failure):
        return case
    return None if same(case.value, expected) else _Failure("wrong", "an answer is not the expected one")
