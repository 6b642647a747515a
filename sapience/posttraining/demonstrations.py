"""Solved problems as samples: the only answers of a run that no model of it wrote.

Each is there once as it is, with its steps in a part of the cases, and once behind the system prompt that asks for
reasoning, with all steps it has; so an expert learns both kinds of answers and when to give which.
"""

from collections.abc import Sequence
from random import Random

from sapience.corpus.chat import Message
from sapience.posttraining.samples import Sample
from sapience.problems.demonstration import demonstration
from sapience.problems.problem import Problem

SOURCE = "problem set"


def plain_demonstration(problem: Problem, worked: float, seed: int) -> Sample:
    """The problem and its answer; the steps are shown for a share of the problems, by the hash of seed and problem."""
    shown = Random(f"{seed}:{problem.identity}").random() < worked
    return _sample(problem, demonstration(problem, shown), "")


def expert_demonstrations(problems: Sequence[Problem], worked: float, system: str, seed: int) -> list[Sample]:
    """Both forms of every problem."""
    plain = [plain_demonstration(problem, worked, seed) for problem in problems]
    return plain + [_sample(problem, demonstration(problem, worked=True), system) for problem in problems]


def practised(samples: Sequence[Sample], reasoned: int) -> list[Sample]:
    """An epoch: every sample once, those behind a system prompt `reasoned` times, in rounds, so that copies do not end up
    side by side."""
    behind = [sample for sample in samples if sample.messages[0].role == "system"]
    return [*samples, *(sample for _ in range(reasoned - 1) for sample in behind)]


def _sample(problem: Problem, answer: str, system: str) -> Sample:
    before = (Message("system", system),) if system else ()
    messages = (*before, Message("user", problem.question), Message("assistant", answer))
    return Sample(messages, "demonstration", SOURCE, problem.domain, problem.family, "en")
