"""Who judges the answers: the rules of the rewards room, which execute code in a sandbox.

Base models and assistants are judged by the same rules, so their scores compare. Where this machine can contain no
untrusted program, texts are still judged and the code families are left out: an answer that nobody ran is not wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.verdict import Verdict


class Judge(Protocol):
    """Says of answers whether they are right."""

    @property
    def description(self) -> str: ...

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]: ...

    def close(self) -> None: ...


class TextJudge:
    """The rules for what is no program: nothing is executed, and it is not to be asked about code."""

    description: str = "nothing was executed"

    def __init__(self, section: RewardsSection | None = None) -> None:
        self._section = section or RewardsSection()
        self._rules: Judge | None = None

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]:
        """One verdict for each answer; `plain` as in `RuleJudge`."""
        for problem in problems:
            if is_code(problem):
                raise ValueError(f"code is judged by executing it, and here nothing is: '{problem.question[:80]}'")
        if self._rules is None:
            from sapience.rewards.rules import RuleJudge

            self._rules = RuleJudge(self._section)
        return self._rules.judge_texts(problems, texts, plain)

    def close(self) -> None:
        """Let what works for it end."""
        if self._rules is not None:
            self._rules.close()


@dataclass(frozen=True)
class OpenJudge:
    """A judge that is ready, and whether it takes code."""

    judge: Judge
    executes: bool
    reason: str = ""
    """Why code cannot be executed."""


@contextmanager
def open_judge(code: bool, section: RewardsSection) -> Iterator[OpenJudge]:
    """The rules with a sandbox; without one where there is no `code` to execute or no sandbox holds on this machine."""
    with ExitStack() as stack:
        texts = stack.enter_context(closing(TextJudge(section)))
        ready = OpenJudge(texts, False)
        if code:
            from sapience.rewards.rules import RuleJudge  # here, since only executing takes what it loads

            try:
                rules = stack.enter_context(RuleJudge(section))
                _ = rules.sandbox  # chosen and tested now: a refusal has to come before the answers
                ready = OpenJudge(rules, True)
            except UserError as error:
                ready = OpenJudge(texts, False, str(error))
        yield ready


def is_code(problem: Problem) -> bool:
    """True for a problem whose answer is a function or a program to be executed."""
    return problem.domain == "code" and bool(problem.tests)
