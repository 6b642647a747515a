"""The process that does the algebra: reads pairs of answers as lines of JSON, says of each whether it is the same.

It is a program of its own (`python -m sapience.rewards.math_worker`) so that it can be killed. Each comparison has a budget of
processor time, kept by the kernel: when the interval timer runs out, SIGPROF ends the process, whatever it does and in
whatever language. No handler is set for it, since Python runs handlers between its own instructions only, and one huge
power is a single instruction. A crowded machine spends nothing of that budget.

It ends by itself when its standard input does. That is how it dies with its parent: a death signal would follow the
thread that started it instead, and threads come and go.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

_MEMORY_BYTES = 2 << 30
"""Address space."""


def main() -> None:
    """Serve until standard input ends."""
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as answers:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)  # what a library prints shall not be taken for an answer
        _limit()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        try:
            from sapience.rewards import math_algebra  # noqa: F401  # loads sympy before the clock of the first pair runs
        except Exception as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=answers)
            return
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            print(json.dumps(_compared(json.loads(line))), file=answers)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _compared(job: dict[str, Any]) -> dict[str, Any]:
    from sapience.rewards.math_algebra import algebra_same, check
    from sapience.rewards.math_reading import read
    from sapience.rewards.math_text import UnreadableError

    signal.setitimer(signal.ITIMER_PROF, job["seconds"])
    try:
        right = read(job["gold"])
        check(right)
    except UnreadableError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return {"unreadable": str(error)}
    try:
        return {"same": algebra_same(right, read(job["answer"], right))}
    except UnreadableError as error:
        return {"same": False, "detail": f"the answer cannot be computed with: {error}"}
    except RecursionError:
        return {"same": False, "detail": "nested too deeply for the algebra"}
    except MemoryError:
        return {"memory": True}
    except (
        Exception
    ) as error:  # sympy raises whatever comes to its mind; what it cannot compare is not shown to be equal
        return {"same": False, "detail": f"the algebra failed: {type(error).__name__}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
