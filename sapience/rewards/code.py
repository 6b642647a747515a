"""The judge of code: inputs go into a sandbox, answers come out, and they are compared out here.

The expected values never enter the sandbox. Whatever a submission does in there (exit with 0, print a marker, answer
with an object that equals everything, read files, hook into the exit), it can only ever say what it believes the
answers to be. So nothing has to be filtered out of its source.

A function in Python is called in one sandbox for all tests, each in a child process of its own (`function_runner`);
whole programs, and other languages, are `programs`' part. A submission is known by its content: what was run once with the
same inputs is not run again. Processor time decides about `timeout`: of a function for all tests together, of a program
for each. Where the machine failed, the run is repeated, and after `ATTEMPTS` the verdict is `infra_error`, which the
caller drops and counts.

Not covered: functions whose answer is no plain value, answers that depend on the order of a set of strings (Python
varies it from run to run).
"""

from __future__ import annotations

import hashlib
import marshal
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from threading import Lock
from typing import Any

from sapience.problems.problem import Language, Problem, StreamCase, TestCase
from sapience.rewards.comparison import is_plain, same
from sapience.rewards.contained_job import program_text
from sapience.rewards.functions import as_input, fitted
from sapience.rewards.limits import Limits
from sapience.rewards.outcome import Answer, Failure, Outcome, read_outcome
from sapience.rewards.programs import Programs, same_output
from sapience.rewards.sandbox import Sandbox
from sapience.rewards.toolchains import installed
from sapience.rewards.verdict import Verdict

ATTEMPTS = 3


class CodeJudge:
    """Judges submissions in `workers` sandboxes at a time; a context manager.

    The last `remembered` outcomes are kept. Every method may be called from several threads.
    """

    def __init__(
        self, sandbox: Sandbox, workers: int = 2, limits: Limits | None = None, remembered: int = 4096
    ) -> None:
        self.sandbox = sandbox
        self.limits = limits or Limits()
        self._programs = Programs(sandbox)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
        self._lock = Lock()
        self._outcomes: OrderedDict[str, Future[Outcome]] = OrderedDict()
        self._remembered = remembered

    def judge(self, problem: Problem, source: str, limits: Limits | None = None) -> Verdict:
        """The verdict on one submission, by limits of its own where the problem has them."""
        return self.judge_many([(problem, source)], limits)[0]

    def judge_many(self, submissions: Sequence[tuple[Problem, str]], limits: Limits | None = None) -> list[Verdict]:
        """One verdict for each submission, in order.

        Raises ValueError for a problem that has no usable tests, UserError where its language cannot be judged here.
        """
        for problem, _ in submissions:
            _check(problem)
            if problem.language != "python" or not problem.entry_point:
                installed(problem.language)
        pending = [self._outcome(problem, source, limits or self.limits) for problem, source in submissions]
        return [_verdict(problem, future.result()) for (problem, _), future in zip(submissions, pending, strict=True)]

    def close(self) -> None:
        """What is under way is brought to its end, what waits is not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> CodeJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, problem: Problem, source: str, limits: Limits) -> Future[Outcome]:
        content = [source, problem.language, problem.entry_point, [_question(test) for test in problem.tests]]
        key = hashlib.sha256(marshal.dumps([*content, asdict(limits)], 2)).hexdigest()  # 2 depends on the values alone
        with self._lock:
            future = self._outcomes.pop(key, None)
            if future is None or _is_lost(future):
                future = self._pool.submit(self._run, problem, source, limits)
            self._outcomes[key] = future
            while len(self._outcomes) > self._remembered:
                self._outcomes.popitem(last=False)
            return future

    def _run(self, problem: Problem, source: str, limits: Limits) -> Outcome:
        outcome = Outcome(())
        for _ in range(ATTEMPTS):
            if problem.language == "python" and problem.entry_point:
                outcome = self._call(problem, source, limits)
            else:
                outcome = self._programs.outcome(problem, source, limits)
            if outcome.whole is None or outcome.whole.kind != "infra_error":
                break
        return outcome

    def _call(self, problem: Problem, source: str, limits: Limits) -> Outcome:
        cases = [_question(test) for test in problem.tests]
        payload = (source, problem.entry_point, cases, limits.cpu_seconds)
        contained = self.sandbox.run(program_text("function_runner"), payload, limits)
        return read_outcome(contained, len(cases), limits)


def _check(problem: Problem) -> None:
    where = problem.question[:80]
    if not problem.tests:
        raise ValueError(f"a code problem needs tests, '{where}' has none")
    if not problem.entry_point:
        if not all(isinstance(test, StreamCase) for test in problem.tests):
            raise ValueError(
                f"a program's tests are what it reads and writes, '{where}' names neither that nor a function"
            )
        return
    if not (problem.entry_point.isascii() and problem.entry_point.isidentifier()) and problem.language != "python":
        raise ValueError(f"'{problem.entry_point[:40]}' is no function's name in {problem.language}, in '{where}'")
    for test in problem.tests:
        if not isinstance(test, TestCase) or not is_plain([*test.args, test.returns]):
            raise ValueError(
                f"a function's tests hold plain values only (numbers, texts, lists, …), those of '{where}' do not"
            )
        if problem.language != "python":
            as_input(problem.language, [*test.args, test.returns])  # raises for what the language has no value for


def _question(test: TestCase | StreamCase) -> Any:
    """What of a test goes into the sandbox."""
    return test.stdin if isinstance(test, StreamCase) else list(test.args)


def _is_lost(future: Future[Outcome]) -> bool:
    """Ended without an outcome that says something about the submission."""
    if not future.done():
        return False
    if future.cancelled() or future.exception() is not None:
        return True
    whole = future.result().whole
    return whole is not None and whole.kind == "infra_error"


def _verdict(problem: Problem, outcome: Outcome) -> Verdict:
    total = len(problem.tests)
    if outcome.whole is not None and outcome.whole.kind == "infra_error":
        return Verdict("infra_error", 0, total, outcome.whole.detail)
    failures = [_judged(problem.language, case, test) for case, test in zip(outcome.cases, problem.tests, strict=True)]
    failures_met = [failure for failure in failures if failure is not None]
    passed = total - len(failures_met)
    worst = outcome.whole or (failures_met[0] if failures_met else None)
    if worst is None:
        return Verdict("ok", passed, total)
    return Verdict(worst.kind, passed, total, worst.detail)


def _judged(language: Language, case: Answer | Failure, test: TestCase | StreamCase) -> Failure | None:
    if isinstance(case, Failure):
        return case
    if isinstance(test, StreamCase):
        right = same_output(case.value, test.stdout)
        return None if right else Failure("wrong", "the output is not the expected one")
    answer = case.value if language == "python" else fitted(language, case.value, test.returns)
    return None if same(answer, test.returns, test.tolerance) else Failure("wrong", "an answer is not the expected one")
