"""Who judges the answers: the rules of the rewards room, which execute code in a sandbox.

Base models and assistants are judged by the same rules, so their scores compare. Where this machine can contain no
untrusted program, texts are still judged and the code families are left out: an answer that nobody ran is not wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from sapience.problems.problem import Problem
from sapience.problems.scoring import score
from sapience.recipe.errors import UserError
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.mathematics import judge_answer
from sapience.rewards.verdict import Verdict


class Judge(Protocol):
    """Says of answers whether they are right."""

    @property
    def description(self) -> str: ...

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]: ...


@dataclass(frozen=True)
class TextJudge:
    """Judges by comparing texts and executes nothing; it is not to be asked about code."""

    description: str = "nothing was executed"

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]:
        """One verdict for each answer; `plain` as in `RuleJudge`."""
        return [self._verdict(problem, text, plain) for problem, text in zip(problems, texts, strict=True)]

    @staticmethod
    def _verdict(problem: Problem, text: str, plain: bool) -> Verdict:
        if is_code(problem):
            raise ValueError(f"code is judged by executing it, and here nothing is executed: '{problem.question[:80]}'")
        if not plain:
            return judge_answer(problem, text)
        return Verdict("ok", 1, 1) if score(problem, text) else Verdict("wrong", 0, 1, "another answer")


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
    if not code:
        yield OpenJudge(TextJudge(), False)
        return
    from sapience.rewards.rules import RuleJudge  # here, since only executing takes what it loads

    with ExitStack() as stack:
        try:
            rules = stack.enter_context(RuleJudge(section))
            _ = rules.sandbox  # chosen and tested now: a refusal has to come before the answers
            ready = OpenJudge(rules, True)
        except UserError as error:
            ready = OpenJudge(TextJudge(), False, str(error))
        yield ready


def is_code(problem: Problem) -> bool:
    """True for a problem whose answer is a function or a program to be executed."""
    return problem.domain == "code" and bool(problem.tests)
