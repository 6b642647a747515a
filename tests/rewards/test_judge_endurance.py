"""Ten thousand submissions leave nothing behind, and a crowded machine changes no verdict."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from available_tiers import left_running, sandbox_of

from sapience.problems.problem import Problem, StreamCase, TestCase
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits


def adding(number: int) -> tuple[Problem, str]:
    cases = (TestCase((1,), 1 + number), TestCase((2,), 2 + number))
    return Problem("x", "code", "f", "", "", "f", cases), f"def f(x): return x + {number}"


def held() -> Counter[str]:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    groups = [
        path for name in ("memory", "pids") for path in Path("/sys/fs/cgroup", name).rglob(f"sapience-{os.getpid()}-*")
    ]
    return Counter(
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=int(status["Threads"]),
        megabytes=int(status["VmRSS"].split()[0]) // 1024,
        groups=len(groups),
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_submissions_leave_nothing_behind() -> None:
    with CodeJudge(sandbox_of("bubblewrap"), 6, remembered=64) as judge:
        assert all(verdict.right for verdict in judge.judge_many([adding(-n) for n in range(1, 200)]))
        before = held()
        for start in range(0, 10_000, 250):
            verdicts = judge.judge_many([adding(n) for n in range(start, start + 250)])
            assert all(verdict.right for verdict in verdicts), next(v for v in verdicts if not v.right)
        after = held()
    assert not left_running()
    assert (after["descriptors"], after["threads"], after["groups"]) == (before["descriptors"], before["threads"], 0)
    assert after["megabytes"] - before["megabytes"] < 20, (before, after)


@contextmanager
def crowd(processes: int) -> Iterator[None]:
    """Processes that compute all the time."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


BUSY = """
import time
begun = time.process_time()
while time.process_time() - begun < 0.5:
    pass
print(input())
"""


@pytest.mark.slow
def test_a_crowded_machine_changes_no_verdict() -> None:
    """Programs that use half of their processor time are right, endless ones are not, with or without a crowd."""
    cases = (StreamCase("a", "a"), StreamCase("b", "b"))
    submissions = []
    for number in range(12):
        problem = Problem("x", "code", "f", "", "", tests=cases)
        source = f"# {number}\n" + (BUSY if number % 3 else "while True: pass")
        submissions.append((problem, source))
    limits = Limits(cpu_seconds=1.0, wall_seconds=20.0)
    kinds = []
    for processes in (0, 12):
        with crowd(processes), CodeJudge(sandbox_of("bubblewrap"), 6, limits) as judge:
            kinds.append([verdict.kind for verdict in judge.judge_many(submissions)])
    assert kinds[0] == kinds[1] == ["timeout" if number % 3 == 0 else "ok" for number in range(12)]
