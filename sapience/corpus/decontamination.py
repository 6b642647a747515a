"""Documents that hold a held-out problem, found by runs of words they have in common.

Held out are the test questions of the problem families that come with sapience (a sample of each) and those of the
recipe's problem files. Questions shorter than the run count as a whole; under eight words they are too common to
mean anything.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.compressed import Damaged, bounded_lines, read_chunks
from sapience.corpus.ngrams import WordRuns
from sapience.problems.families import OWN_FAMILIES, generate
from sapience.recipe.errors import UserError

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


class HeldOutQuestions:
    """Knows the word runs of held-out questions."""

    def __init__(self, questions: Iterable[str], run: int) -> None:
        texts = list(questions)
        words = WordRuns(texts)
        lengths = words.words()
        by_size: dict[int, list[str]] = defaultdict(list)
        for text, length in zip(texts, lengths.tolist(), strict=True):
            if length >= min(SHORTEST_QUESTION, run):
                by_size[min(run, length)].append(text)
        self._runs: dict[int, NDArray[np.uint64]] = {
            size: np.unique(WordRuns(members).hashes(size)[0]) for size, members in sorted(by_size.items())
        }

    def found_in(self, texts: WordRuns) -> NDArray[np.bool_]:
        """True for each text that shares a run with a question."""
        found = np.zeros(len(texts.words()), bool)
        for size, known in self._runs.items():
            hashes, counts = texts.hashes(size)
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            hits = np.flatnonzero(known[places] == hashes)
            found[np.searchsorted(np.cumsum(counts), hits, side="right")] = True
        return found
