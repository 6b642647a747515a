"""Problem files, asked like generated families: some of the test part of those in `evaluate.problem_files`, and of those that
experts were raised on.

Which problems are asked hangs on the hash of their question, not on their order in the file: the first fifty of a set that
is sorted by subject or hardness would say little about it. Base models are shown solved problems of the set's own training
part; a set that is all for testing has none, and they are asked without examples.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sapience.problems.families import FAMILIES
from sapience.problems.problem import Problem, content_hash
from sapience.problems.user_files import load_problems, test_hashes, without_test_questions
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import ProblemFileSection


@dataclass(frozen=True)
class FileProblems:
    """What the sets give an evaluation."""

    asked: dict[str, list[Problem]]
    """Test problems by the set's name."""
    solved: dict[str, list[Problem]]
    """Training problems with an answer, by the set's name; none of them is a test question of any set."""
    unusable: dict[str, int]
    """Records that could not be used, by source and reason."""
    untested: list[str]
    """Sets that experts were raised on and that have no test part."""


def file_problems(
    files: Sequence[ProblemFileSection], raised_on: Sequence[ProblemFileSection], count: int, shots: int
) -> FileProblems:
    """At most `count` test problems and `shots` solved ones of each of `files`, and of each set that experts were `raised_on`.

    Of `raised_on` a set that is called as one of `files` is asked as that one, those of one name as one, and one without a
    test problem not at all. Raises UserError for a set that cannot be had, and for one of `files` that has no test problem
    or is called as a generated family is.
    """
    named = {file.called: file for file in files}
    for name, file in named.items():
        if name in FAMILIES:
            raise UserError(f"{file.source} is called {name} as a generated family is: give it another `name`")
    theirs = [file for file in raised_on if file.use != "train" and file.called not in named]
    loaded = [(file, load_problems(file)) for file in (*files, *theirs)]
    hashes = test_hashes(problems for _, problems in loaded)
    tested, solved = defaultdict[str, dict[str, Problem]](dict), defaultdict[str, dict[str, Problem]](dict)
    unusable = Counter[str]()
    for file, problems in loaded:
        tested[file.called] |= _by_hash(problems.of("test"))
        solved[file.called] |= _by_hash(p for p in without_test_questions(problems.of("train"), hashes) if p.answer)
        unusable.update(f"{file.source}: {line.reason}" for line in problems.bad_lines)
    for name, file in named.items():
        if not tested[name]:
            raise UserError(f"{file.source} has no problem in its test part: write use: test, or give more problems")
    asked = {name: _first(found, count) for name, found in tested.items() if found}
    shown = {name: _first(solved[name], shots) for name in asked}
    untested = dict.fromkeys(file.called for file in raised_on if file.called not in asked)
    return FileProblems(asked, shown, dict(unusable), list(untested))


def _by_hash(problems: Iterable[Problem]) -> dict[str, Problem]:
    return {content_hash(problem.question): problem for problem in problems}


def _first(problems: Mapping[str, Problem], count: int) -> list[Problem]:
    return [problems[place] for place in sorted(problems)[:count]]
