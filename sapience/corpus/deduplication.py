"""Near duplicates: documents that are the same but for a few words.

MinHash estimates how many word 5-grams two documents share (Jaccard similarity); locality-sensitive hashing finds
the candidates, and each candidate's estimate is then compared with the limit, so that banding adds no false finds.
Documents are shown one after the other and the first of a group stays. Memory is about 2 KB per kept document,
whatever its length. Documents of fewer than five words count as one 5-gram, so they match only as a whole.
The estimate from 128 values has a standard error of 0.035 at similarity 0.8.
"""

from typing import Any

from sapience.corpus.words import runs_of_words

SHINGLE_WORDS = 5
PERMUTATIONS = 128
_SEED = 7
_MISSED = 1e-3
"""Largest chance that banding overlooks a pair just at the limit."""


def bands(similarity: float) -> int:
    """The fewest bands of `PERMUTATIONS` values that overlook a pair of that similarity with chance under 0.001.

    A pair shares a band of r values with chance s^r, so all of 128 / r bands miss it with (1 - s^r)^(128 / r).
    """
    for rows in (32, 16, 8, 4, 2):
        if (1 - similarity**rows) ** (PERMUTATIONS // rows) < _MISSED:
            return PERMUTATIONS // rows
    return PERMUTATIONS


class NearDuplicates:
    """Remembers the documents that stayed and knows a later one that resembles any of them."""

    def __init__(self, similarity: float) -> None:
        from rensa import RMinHashLSH

        self._similarity = similarity
        self._index = RMinHashLSH(similarity, PERMUTATIONS, bands(similarity))
        self._kept: list[Any] = []

    def repeats(self, document_words: list[str]) -> bool:
        """True for a near duplicate of a document shown earlier; a document that is none is remembered."""
        from rensa import RMinHash

        sketch = RMinHash(PERMUTATIONS, _SEED)
        sketch.update(runs_of_words(document_words, SHINGLE_WORDS) or [" ".join(document_words)])
        if any(sketch.jaccard(self._kept[key]) >= self._similarity for key in self._index.query(sketch)):
            return True
        self._index.insert(len(self._kept), sketch)
        self._kept.append(sketch)
        return False
