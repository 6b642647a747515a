"""Documents that hold a held-out problem, found by runs of words they have in common.

Held out are the test questions of the problem families that come with sapience (a sample of each), the questions of
`corpus.problem_files`, and the test parts of every problem set that the recipe names anywhere: what is evaluated, and what
is trained on as far as a part of it is kept for testing. Of a set its authors' own words are looked for. Questions shorter
than the run count as a whole; under eight words they are too common to mean anything. Not covered: solutions without their
question, translations, other wordings.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.compressed import Damaged, bounded_lines, read_chunks
from sapience.corpus.ngrams import WordRuns
from sapience.problems.families import OWN_FAMILIES, generate
from sapience.problems.user_files import load_problems
from sapience.recipe import Recipe
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import problem_files_of

GENERATED = "generated families"
"""The name under which the families that come with sapience are counted."""
SHORTEST_QUESTION = 8
"""Words."""
QUESTIONS_OF_FAMILY = 64
"""Test questions drawn per family; halved for a family that has fewer."""
_FIELDS = ("question", "prompt", "problem", "text")
_LONGEST_LINE = 1 << 22


def own_test_questions(seed: int) -> list[str]:
    """Test questions of the generated families."""
    questions = []
    for family in OWN_FAMILIES:
        count = QUESTIONS_OF_FAMILY
        while count:
            try:
                questions += [problem.question for problem in generate(family, "test", count, seed)]
                break
            except UserError:
                count //= 2
    return questions


def questions_of_file(name: str) -> list[str]:
    """The questions of a JSON lines file.

    Raises UserError where the file is missing or holds none.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"corpus.problem_files names {name}, which does not exist: check the path in the recipe")
    questions = []
    try:
        for line in bounded_lines(read_chunks(path), _LONGEST_LINE):
            try:
                record = json.loads(line) if line else None
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                questions += [str(record[field]) for field in _FIELDS if isinstance(record.get(field), str)][:1]
    except Damaged as error:
        raise UserError(f"the problem file {name} is damaged ({error}): fetch it again") from None
    if not questions:
        raise UserError(f"{name} holds no question: its lines need one of the fields {', '.join(_FIELDS)}")
    return questions


def recipe_questions(recipe: Recipe) -> dict[str, list[str]]:
    """All held-out questions by the name of their set, in the order in which a document is counted for one.

    Raises UserError for a set that cannot be had.
    """
    sets = {GENERATED: own_test_questions(recipe.seed)}
    for name in recipe.corpus.problem_files:
        sets.setdefault(Path(name).name, []).extend(questions_of_file(name))
    for file in problem_files_of(recipe):
        tested = [placed.published for placed in load_problems(file).placed if placed.split == "test"]
        sets.setdefault(file.called, []).extend(tested)
    return {name: list(dict.fromkeys(questions)) for name, questions in sets.items()}


class HeldOutQuestions:
    """Knows the word runs of held-out questions, and the set that each belongs to."""

    def __init__(self, questions: Iterable[str], run: int, sets: Iterable[str] = ()) -> None:
        """`sets` names the set of each question; where it is empty, all are of one without a name."""
        texts = list(questions)
        owners = list(sets) or [""] * len(texts)
        self.sets = tuple(dict.fromkeys(owners))
        """Their names, in order."""
        words = WordRuns(texts)
        lengths = words.words()
        by_size: dict[int, list[tuple[str, int]]] = defaultdict(list)
        numbers = {name: number for number, name in enumerate(self.sets)}
        for text, length, owner in zip(texts, lengths.tolist(), owners, strict=True):
            if length >= min(SHORTEST_QUESTION, run):
                by_size[min(run, length)].append((text, numbers[owner]))
        self._runs = {size: _owned_runs(members, size) for size, members in sorted(by_size.items())}

    def set_found_in(self, texts: WordRuns) -> NDArray[np.int64]:
        """For each text the place in `sets` of the first with a question that it shares a run with; -1: there is none."""
        nobody = np.iinfo(np.int64).max
        found = np.full(len(texts.words()), nobody, np.int64)
        for size, (known, owners) in self._runs.items():
            hashes, counts = texts.hashes(size)
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            hits = np.flatnonzero(known[places] == hashes)
            np.minimum.at(found, np.searchsorted(np.cumsum(counts), hits, side="right"), owners[places[hits]])
        found[found == nobody] = -1
        return found

    def found_in(self, texts: WordRuns) -> NDArray[np.bool_]:
        """True for each text that shares a run with a question."""
        return self.set_found_in(texts) >= 0


def _owned_runs(members: Sequence[tuple[str, int]], size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The different hashes in order, and of each the lowest number of a set that has it."""
    hashes, counts = WordRuns([text for text, _ in members]).hashes(size)
    owners = np.repeat(np.array([owner for _, owner in members], np.int64), counts)
    order = np.lexsort((owners, hashes))
    known, first = np.unique(hashes[order], return_index=True)
    return known, owners[order][first]
