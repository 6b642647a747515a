"""Which problems an iteration asks: a pure function of (seed, iteration), so that a killed run asks what it would have asked.

A pool holds problems of generated families and of a user's sets, of one split only; stages that train take `train`. A
question that any set is tested with stays out of training, whichever set brings it. A line of a file that is no problem is
counted with its reason, for the figures of the stage that asks. Not covered: choosing problems by how hard they have proved.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from random import Random

from sapience.posttraining.rollouts import Prompt
from sapience.problems.families import generate
from sapience.problems.problem import Problem, Split
from sapience.problems.user_files import LoadedProblems, load_problems, test_hashes, without_test_questions
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import ProblemFileSection, ProblemSetSection
from sapience.rewards.math_judge import unreadable


class ProblemPool:
    """Problems by family or file, dealt by weight."""

    def __init__(
        self,
        section: ProblemSetSection,
        each: int,
        seed: int,
        split: Split = "train",
        held_out: Sequence[ProblemFileSection] = (),
    ) -> None:
        """`each` is the most problems taken of a generated family, halved until the family has as many. `held_out` are
        the recipe's other sets, whose test questions are refused as are those of `section`.

        Raises UserError where nothing is named, and for a file without a problem of the split.
        """
        if section.empty:
            raise UserError("no problems are named: give families or files, such as {families: {maxn: 1}}")
        self.seed = seed
        self.pools: list[list[Problem]] = []
        self.weights: list[float] = []
        self.unusable: Counter[str] = Counter()
        """How many lines of which file could not be used, by file and reason."""
        for family, weight in section.families.items():
            self.pools.append(_as_many_as_there_are(family, split, each, seed))
            self.weights.append(weight)
        loaded = {file: load_problems(file) for file in section.files}
        others = (load_problems(file) for file in held_out if file not in loaded)
        refused = frozenset[str]() if split == "test" else test_hashes([*loaded.values(), *others])
        for file in section.files:
            self.pools.append(self._problems(file, loaded[file], split, refused))
            self.weights.append(file.weight)

    def _problems(
        self, file: ProblemFileSection, loaded: LoadedProblems, split: Split, refused: frozenset[str]
    ) -> list[Problem]:
        found = loaded.of(split)
        problems = without_test_questions(found, refused)
        reasons = Counter(f"{file.source}: {line.reason}" for line in loaded.bad_lines)
        reasons[f"{file.source}: a question that a set is tested with"] = len(found) - len(problems)
        readable = []
        for problem in problems:
            why = unreadable(problem.answer) if problem.domain == "math" else None
            if why is None:
                readable.append(problem)
            else:
                reasons[f"{file.source}: the answer cannot be read ({why})"] += 1
        problems = readable
        self.unusable |= reasons
        if not problems:
            remedy = "give more problems" if file.use == "split" else f"it is for use: {file.use}"
            raise UserError(f"{file.source} has no problem in the {split} split: {remedy}")
        return problems

    def prompts(self, iteration: int, count: int, system: str = "") -> list[Prompt]:
        """The prompts of an iteration, drawn with replacement from pools by weight."""
        rng = Random(f"{self.seed}:{iteration}")
        chosen = rng.choices(range(len(self.pools)), self.weights, k=count)
        return [Prompt.of(self.pools[pool][rng.randrange(len(self.pools[pool]))], system) for pool in chosen]

    def first(self, count: int) -> list[Problem]:
        """The first `count` problems of every family and file: a fixed set, the same however large the pool is."""
        return [problem for pool in self.pools for problem in pool[:count]]

    def first_in_all(self, count: int) -> list[Problem]:
        """`count` problems in all, in turn from every family and file as far as each reaches."""
        turns = (pool[place] for place in range(count) for pool in self.pools if place < len(pool))
        return list(islice(turns, count))


def _as_many_as_there_are(family: str, split: Split, count: int, seed: int) -> list[Problem]:
    try:
        return generate(family, split, count, seed)
    except UserError:
        if count < 2:
            raise
        return _as_many_as_there_are(family, split, count // 2, seed)
