"""The tiers that hold on this machine, as parameters for pytest; a tier that does not is skipped with its reason."""

from __future__ import annotations

import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from sapience.problems.problem import Language, Problem, StreamCase
from sapience.recipe.errors import UserError
from sapience.rewards.code import CodeJudge
from sapience.rewards.sandbox import Sandbox, choose_sandbox
from sapience.rewards.toolchains import TOOLCHAINS, missing

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


def skip_what_cannot_be_judged(judge: CodeJudge, language: Language) -> None:
    """Skips the test where the machine has no compiler, or one that the tier's user cannot reach."""
    if missing(language):
        pytest.skip(f"{', '.join(missing(language))} is not installed: {TOOLCHAINS[language].remedy}")
    if judge.sandbox.weaker:
        proof = Problem("x", "code", "x", "", "", tests=(StreamCase("", "works"),), language=language)
        try:
            judge.judge(proof, TOOLCHAINS[language].proof)
        except UserError as error:
            pytest.skip(str(error))


def left_behind() -> list[str]:
    """What still runs, and folders of runs, after a moment for the kernel to clear up."""
    patience = time.monotonic() + 5
    while (left := left_running() + left_folders()) and time.monotonic() < patience:
        time.sleep(0.02)
    return left


_FOLDERS = f"sapience-scratch-{os.getpid()}-"


def left_folders() -> list[str]:
    """Folders of our runs that were not removed."""
    return [str(path) for path in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*")]


def left_running() -> list[str]:
    """Programs of our sandboxes that still run, orphans among them, and children of ours that nobody waited for."""
    left = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                state, parent = _state_and_parent(process)
                if state == "Z":
                    left += [f"zombie {process.name}"] if parent == os.getpid() else []
                elif _FOLDERS in str((process / "cwd").readlink()) or (_is_inside(process) and not _of_others(process)):
                    left.append(process.name)
            except OSError:
                continue
    return left


def _state_and_parent(process: Path) -> tuple[str, int]:
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    return stat[0], int(stat[1])


def _is_inside(process: Path) -> bool:
    return "The first thing that runs inside a sandbox" in (process / "cmdline").read_text()


def _of_others(process: Path) -> bool:
    """Whether a sandbox was put up by some other Python on this machine, which still sees to it."""
    while _is_inside(process):
        process = process.parent / str(_state_and_parent(process)[1])
    return process.name != str(os.getpid()) and (process / "comm").read_text().startswith(("python", "pytest"))
