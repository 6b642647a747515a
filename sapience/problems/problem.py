"""One problem as a record, and the rule that says whether it may be trained on.

The split hangs on the question's text alone, not on a file, a seed or an order: however a question comes to be
(generated again with another seed, read from a user's file, found in a crawl), it lands on the same side.
This module does not generate problems and does not judge answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Domain = Literal["math", "code", "general"]
Language = Literal["python", "c", "cpp", "java", "javascript", "go", "rust", "bash"]
Split = Literal["train", "validation", "test"]

ANSWER_MARK = " = "
"""Stands between the steps and the final answer in every worked form: `7 * 20 = 140, 7 * 3 = 21, 140 + 21 = 161`."""


@dataclass(frozen=True, slots=True)
class TestCase:
    """One hidden test of a code problem: `entry_point(*args)` has to equal `returns`.

    Values are built of None, bool, int, float, str, list, dict, tuple and set. With a `tolerance` numbers may be that far
    off, relative or absolute, whether whole or not; zero asks for what Python calls equal.
    """

    __test__ = False  # keeps pytest from collecting the class

    args: tuple[Any, ...]
    returns: Any
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class StreamCase:
    """One hidden test of a program: fed `stdin`, it has to write `stdout`, blanks at line ends and the last line end aside."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its right answer.

    `worked` is either the answer alone or steps that end in `ANSWER_MARK` and the answer. A code problem's answer
    is source that defines `entry_point`, or a program that reads and writes standard streams where there is none; any
    other source that passes `tests` is as right as this one.
    `metadata` is a JSON object that the family's own scorer wants (empty for most families).
    """

    family: str
    domain: Domain
    question: str
    answer: str
    worked: str
    entry_point: str = ""
    tests: tuple[TestCase | StreamCase, ...] = ()
    language: Language = "python"
    metadata: str = ""

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that depend on the question alone."""
        return content_hash(self.question)[:16]

    @property
    def steps(self) -> str:
        """The worked form without its final answer; empty where there are no steps."""
        if self.worked == self.answer:
            return ""
        return self.worked.removesuffix(ANSWER_MARK + self.answer)


def content_hash(question: str) -> str:
    """SHA-256 of the question with runs of white space made one blank, so that a line wrap changes nothing."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()


def split_of(question: str) -> Split:
    """Tenths by content hash: one is test, half of another is validation (to tune settings on), the rest is training."""
    place = int(content_hash(question)[:8], 16) % 20
    if place < 2:
        return "test"
    return "validation" if place == 2 else "train"


def is_test(question: str) -> bool:
    """True for the tenth of all questions that no stage may train on."""
    return split_of(question) == "test"
