"""Held-out problems that must not be found in the corpus.

Searched for are the questions that the evaluation asks and those in the recipe's problem files: a document that has
`contamination_words` words in a row in common with one of them is contaminated, and so is one that has the whole of
a shorter question. Questions under five words ("What is 3 + 4?") are in every text and are not searched for.
Generated problems are of the training split, which shares no question with the test split; their templates are the
same on purpose, so they are compared by whole question only (`is_held_out`).
"""

from collections.abc import Iterable
from pathlib import Path

from sapience.corpus.words import runs_of_words, words
from sapience.problems.families import OWN_FAMILIES, generate
from sapience.problems.problem import content_hash, is_test
from sapience.problems.user_files import load_jsonl
from sapience.recipe import Recipe

SHORTEST_QUESTION = 5
"""Words; shorter questions say too little to recognise a copy by."""


def held_out_questions(recipe: Recipe) -> list[str]:
    """The questions of `evaluate` and of `corpus.problem_files`. UserError for a file or family there is not."""
    evaluate = recipe.evaluate
    questions = [
        problem.question
        for family in evaluate.families or OWN_FAMILIES
        for problem in generate(family, "test", evaluate.problems_per_family, recipe.seed)
    ]
    for name in recipe.corpus.problem_files:
        questions.extend(problem.question for problem in load_jsonl(Path(name).expanduser()).problems)
    return questions


class HeldOutQuestions:
    """Finds copies of questions in documents."""

    def __init__(self, questions: Iterable[str], words_in_a_row: int) -> None:
        self._identities: set[str] = set()
        self._runs: set[str] = set()
        self._beginnings: set[str] = set()
        lengths: set[int] = set()
        self._prefix = min(SHORTEST_QUESTION, words_in_a_row)
        for question in questions:
            self._identities.add(content_hash(question))
            sequence = words(question)
            if len(sequence) < self._prefix:
                continue
            length = min(len(sequence), words_in_a_row)
            lengths.add(length)
            for start in range(len(sequence) - length + 1):
                self._runs.add(" ".join(sequence[start : start + length]))
                self._beginnings.add(" ".join(sequence[start : start + self._prefix]))
        self._lengths = sorted(lengths)

    def found_in(self, document_words: list[str]) -> bool:
        """True where the document holds a run of words of a question; most are cleared by their 5-grams alone."""
        beginnings = runs_of_words(document_words, self._prefix)
        if self._beginnings.isdisjoint(beginnings):
            return False
        return any(
            " ".join(document_words[start : start + length]) in self._runs
            for start, beginning in enumerate(beginnings)
            if beginning in self._beginnings
            for length in self._lengths
        )

    def is_held_out(self, question: str) -> bool:
        """True for a question that must not be trained on: of the test split, or one of ours word for word."""
        return is_test(question) or content_hash(question) in self._identities
