"""Problem sets that a recipe names, files and data sets, as problems with their side of the split.

A record that cannot be used is put aside with its reason and counted, never fatal, never silently lost. The split is the
same content hash as everywhere (`problem.split_of`), so a user's set needs no files of its own for training and test; a
set that its authors have split says what it is for (`use`), and MBPP's numbers say it by themselves. So the same question
may stand on both sides by two sets: `without_test_questions` keeps it out of training.

Not covered: questions that say the same in other words (the corpus is searched for runs of their words, see
`sapience.corpus.decontamination`), and generated families, whose questions are split by content hash alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sapience.problems.hub_sets import dataset_records
from sapience.problems.layouts import layout_of, official_split, problem_from, published_text
from sapience.problems.problem import Problem, Split, content_hash, split_of
from sapience.problems.record_files import LONGEST_LINE, Place, json_object, read_records
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import ProblemFileSection

__all__ = [
    "LONGEST_LINE", "BadLine", "LoadedProblems", "PlacedProblem", "json_object", "load_jsonl", "load_problems",
    "test_hashes", "without_test_questions",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line or record that was put aside, counted from one."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class PlacedProblem:
    """A problem and what it may be used for."""

    problem: Problem
    split: Split
    published: str
    """The question in its authors' words, by which it is known in a crawl."""


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """What a set gave: problems with different questions, in its order, and the records that were put aside."""

    placed: tuple[PlacedProblem, ...]
    bad_lines: tuple[BadLine, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All of them, whatever they may be used for."""
        return tuple(placed.problem for placed in self.placed)

    def of(self, split: Split) -> list[Problem]:
        """Those of one side, in the set's order."""
        return [placed.problem for placed in self.placed if placed.split == split]


def load_problems(section: ProblemFileSection) -> LoadedProblems:
    """The problems of a set; their family is what the set is called.

    Raises UserError where it is missing, cannot be read to its end or holds no usable problem.
    """
    found: dict[str, PlacedProblem] = {}
    bad: list[BadLine] = []
    for number, record in _records(section):
        if isinstance(record, str):
            bad.append(BadLine(number, record))
            continue
        try:
            placed = _placed(record, section)
        except ValueError as error:
            told = str(error).encode(errors="backslashreplace").decode()  # it may quote half of a surrogate pair
            bad.append(BadLine(number, told))
            continue
        if placed.problem.question in found:
            bad.append(BadLine(number, "the same question again"))
            continue
        found[placed.problem.question] = placed
        if section.limit is not None and len(found) == section.limit:
            break
    if not found:
        first = f"; line {bad[0].number}: {bad[0].reason}" if bad else ""
        wanted = '{"question": "…", "answer": "…"} or of another layout that sapience knows'
        raise UserError(f"{section.source} holds no usable problem{first}: each line has to be {wanted}")
    return LoadedProblems(tuple(found.values()), tuple(bad))


def load_jsonl(path: Path, domain: Literal["math", "general"] = "general") -> LoadedProblems:
    """Problems of a file, as `load_problems`."""
    return load_problems(ProblemFileSection(path=str(path), domain=domain))


def test_hashes(sets: Iterable[LoadedProblems]) -> frozenset[str]:
    """Content hashes of all questions that one of the sets is tested with."""
    return frozenset(content_hash(problem.question) for loaded in sets for problem in loaded.of("test"))


test_hashes.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it


def without_test_questions(problems: Iterable[Problem], hashes: Collection[str]) -> list[Problem]:
    """Problems to train on, those left out whose question is among `test_hashes`."""
    return [problem for problem in problems if content_hash(problem.question) not in hashes]


def _records(section: ProblemFileSection) -> Iterator[Place]:
    if section.dataset is not None:
        return dataset_records(section)
    return read_records(Path(section.source).expanduser())


def _placed(record: dict[str, object], section: ProblemFileSection) -> PlacedProblem:
    """Raises ValueError with the reason why a record is no problem."""
    layout = layout_of(record) if section.layout == "auto" else section.layout
    domain = None if section.domain == "auto" else section.domain
    problem = problem_from(record, layout, section.called, domain)
    by_hash = split_of(problem.question)
    if section.use == "test":
        split: Split = "test"
    elif section.use == "train":
        split = "validation" if by_hash == "validation" else "train"
    else:
        split = official_split(record, layout) or by_hash
    return PlacedProblem(problem, split, published_text(record, layout))
