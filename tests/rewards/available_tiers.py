"""The tiers that hold on this machine, as parameters for pytest; a tier that does not is skipped with its reason."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from sapience.recipe.errors import UserError
from sapience.rewards.sandbox import Sandbox, choose_sandbox

TIERS = ("bubblewrap", "landlock")


@cache
def _chosen(tier: Literal["bubblewrap", "landlock"]) -> Sandbox | str:
    try:
        return choose_sandbox(tier)
    except UserError as error:
        return str(error)


def sandbox_of(tier: Any) -> Sandbox:
    """Skips the test where the tier does not hold."""
    chosen = _chosen(tier)
    if isinstance(chosen, str):
        pytest.skip(chosen)
    return chosen


def left_running() -> list[str]:
    """Programs of a sandbox that still run, and children of ours that nobody waited for."""
    left = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                stat = (process / "stat").read_text().rpartition(")")[2].split()
                words = (process / "cmdline").read_text()
            except OSError:
                continue
            if "The first thing that runs inside a sandbox" in words and stat[0] != "Z":
                left.append(process.name)
            if stat[0] == "Z" and int(stat[1]) == os.getpid():
                left.append(f"zombie {process.name}")
    return left
