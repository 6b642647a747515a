"""How many submissions and test cases the judge gets through in a second, and whether anything is left behind.

    python benchmarks/judge.py                       # the figures of docs/lab-log.md
    python benchmarks/judge.py --submissions 10000   # the same, long enough to see a leak

Submissions differ, so that none is known from before. Prints one JSON line per figure.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from sapience.problems.problem import Problem, StreamCase, TestCase
from sapience.rewards.code import CodeJudge
from sapience.rewards.sandbox import choose_sandbox


def function(number: int, tests: int) -> tuple[Problem, str]:
    """A problem with `tests` calls, and a right answer to it."""
    cases = tuple(TestCase((n,), n + number) for n in range(tests))
    return Problem("bench", "code", "f", "", "", "f", cases), f"def f(x):\n    return x + {number}\n"


def program(number: int, tests: int) -> tuple[Problem, str]:
    """The same as a program that reads and writes."""
    cases = tuple(StreamCase(str(n), str(n + number)) for n in range(tests))
    return Problem("bench", "code", "f", "", "", "", cases), f"print(int(input()) + {number})\n"


def rate(judge: CodeJudge, make: Callable[[int, int], tuple[Problem, str]], count: int, tests: int) -> float:
    """Submissions a second. Raises AssertionError where one of them is not judged right."""
    begun = time.perf_counter()
    done = 0
    while done < count:
        verdicts = judge.judge_many([make(done + n, tests) for n in range(min(200, count - done))])
        assert all(verdict.right for verdict in verdicts), next(v for v in verdicts if not v.right)
        done += len(verdicts)
    return count / (time.perf_counter() - begun)


def held() -> dict[str, int]:
    """What this process holds: open descriptors, threads, resident memory; and control groups that were left."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    left = [
        path for name in ("memory", "pids") for path in Path("/sys/fs/cgroup", name).rglob(f"sapience-{os.getpid()}-*")
    ]
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "resident_mb": int(status["VmRSS"].split()[0]) // 1024,
        "groups": len(left),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=400, help="of each kind")
    parser.add_argument("--workers", type=int, default=6, help="sandboxes at a time")
    parser.add_argument("--sandbox", choices=("auto", "bubblewrap", "landlock"), default="auto")
    arguments = parser.parse_args()
    sandbox = choose_sandbox(arguments.sandbox)
    with CodeJudge(sandbox, arguments.workers, remembered=64) as judge:
        rate(judge, function, 20, 1)
        before = held()
        for what, make, tests in (
            ("functions, 1 test", function, 1), ("functions, 20 tests", function, 20),
            ("programs, 1 test", program, 1), ("programs, 20 tests", program, 20),
        ):  # fmt: skip
            count = max(1, arguments.submissions // (1 if tests == 1 else 10))
            submissions = rate(judge, make, count, tests)
            record = {
                "what": what,
                "submissions_per_s": round(submissions, 1),
                "tests_per_s": round(submissions * tests, 1),
            }
            print(
                json.dumps({**record, "submissions": count, "workers": arguments.workers, "tier": sandbox.tier}),
                flush=True,
            )
        print(json.dumps({"what": "held before and after", "before": before, "after": held()}))


if __name__ == "__main__":
    main()
