"""A judge in the place of the rewards room's rules, so that these tests need no sandbox."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from sapience.problems.demonstration import demonstration
from sapience.problems.problem import Problem
from sapience.problems.scoring import score
from sapience.recipe.errors import UserError
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.verdict import Verdict


class StandInRules:
    """Right is the demonstrated answer and nothing else; executes nothing."""

    description = "stand-in for a sandbox"

    def __init__(self, section: RewardsSection) -> None:
        self.section = section

    @property
    def sandbox(self) -> str:
        return "nothing"

    def __enter__(self) -> "StandInRules":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]:
        def right(problem: Problem, text: str) -> bool:
            return (
                score(problem, text) if plain else text in {demonstration(problem, worked) for worked in (True, False)}
            )

        return [Verdict("ok" if right(p, t) else "wrong", 0, 1) for p, t in zip(problems, texts, strict=True)]


class NoSandbox(StandInRules):
    """What the rules do where no sandbox holds."""

    @property
    def sandbox(self) -> str:
        raise UserError("untrusted programs cannot be contained on this machine")


def install_rules(monkeypatch: pytest.MonkeyPatch, rules: Any = StandInRules) -> None:
    """Lets the evaluation find `rules` where it looks for `RuleJudge`."""
    module = ModuleType("sapience.rewards.rules")
    module.RuleJudge = rules  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sapience.rewards.rules", module)
