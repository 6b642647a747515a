"""A user number that nothing else on the machine has, for runs that are started by root.

The number of processes, the right to send signals and an owner's rights to files hang on the user. A fresh random
number for every run makes all of them the run's own.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path

_LOWEST = 100_000
"""Below are people and services, where the user namespace has room for more."""


def random_identity() -> int | None:
    """A number for user and group; None where we are not root and cannot choose."""
    if os.geteuid() != 0:
        return None
    first, count = max(_mapped_ranges(), key=lambda span: span[1])
    lowest = max(first, min(_LOWEST, first + count // 2))
    return lowest + secrets.randbelow(first + count - lowest)


@cache
def _mapped_ranges() -> tuple[tuple[int, int], ...]:
    """(first, how many) of the user numbers that exist in our own user namespace."""
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return tuple((int(first), min(int(count), 2**31 - int(first))) for first, _, count in rows)
