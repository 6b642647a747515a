"""Problem sets of the recipe's `evaluate.problem_files`, asked like generated families: some of their test part.

Which problems are asked hangs on the hash of their question, not on their order in the file: the first fifty of a set that
is sorted by subject or hardness would say little about it. Base models are shown solved problems of the set's own training
part; a set that is all for testing has none, and they are asked without examples.
"""

from collections import Counter
from collections.abc import Sequence
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


def file_problems(files: Sequence[ProblemFileSection], count: int, shots: int) -> FileProblems:
    """At most `count` test problems of each set and `shots` solved ones.

    Raises UserError for a set that cannot be had, has no test problem, or is called as a generated family is.
    """
    loaded = {file.called: (file, load_problems(file)) for file in files}
    hashes = test_hashes(problems for _, problems in loaded.values())
    asked, solved, unusable = dict[str, list[Problem]](), dict[str, list[Problem]](), Counter[str]()
    for name, (file, problems) in loaded.items():
        if name in FAMILIES:
            raise UserError(f"{file.source} is called {name} as a generated family is: give it another `name`")
        tested = sorted(problems.of("test"), key=_place)
        if not tested:
            raise UserError(f"{file.source} has no problem in its test part: write use: test, or give more problems")
        examples = [problem for problem in without_test_questions(problems.of("train"), hashes) if problem.answer]
        asked[name], solved[name] = tested[:count], sorted(examples, key=_place)[:shots]
        unusable.update(f"{file.source}: {line.reason}" for line in problems.bad_lines)
    return FileProblems(asked, solved, dict(unusable))


def _place(problem: Problem) -> str:
    return content_hash(problem.question)
