"""Hashes of all runs of n words of many texts at once, for near-duplicates and for decontamination.

A run is hashed by a polynomial over its bytes, taken from prefix sums modulo 2^64, so that numpy does in a few passes
what a loop over words would take minutes for. Case, white space and ASCII punctuation do not count. In scripts without
blanks (Chinese, Japanese, Korean) every character begins a word.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64
_MASK = (1 << 64) - 1
_SEPARATOR, _WORD, _IDEOGRAPH = 0, 1, 2


def _byte_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    kinds = np.full(256, _WORD, np.uint8)
    lower = np.arange(256, dtype=np.uint8)
    for byte in range(128):
        if not chr(byte).isalnum():
            kinds[byte] = _SEPARATOR
        lower[byte] = ord(chr(byte).lower())
    kinds[0xE3:0xEE] = _IDEOGRAPH  # first bytes of U+3000 to U+DFFF in UTF-8
    return kinds, lower


_KINDS, _LOWER = _byte_tables()


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^0 … base^(count-1) modulo 2^64, by doubling."""
    powers = np.ones(max(count, 1), np.uint64)
    filled = 1
    while filled < count:
        step = np.uint64(pow(base, filled, 1 << 64))
        stretch = min(filled, count - filled)
        powers[filled : filled + stretch] = powers[:stretch] * step
        filled += stretch
    return powers


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele et al.'s finaliser: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class WordRuns:
    """The words of a batch of texts, ready to be hashed in runs of any length."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        data = np.frombuffer(b"\n".join(encoded), np.uint8)
        kinds = _KINDS[data]
        in_word = kinds != _SEPARATOR
        after_gap = np.ones(len(data), bool)
        after_gap[1:] = ~in_word[:-1]
        is_start = in_word & (after_gap | (kinds == _IDEOGRAPH))
        kept = _LOWER[data[in_word]].astype(np.uint64) + np.uint64(1)
        self._starts = np.append((np.cumsum(in_word) - 1)[is_start], len(kept))
        ends = np.cumsum([len(part) + 1 for part in encoded]) if encoded else np.zeros(0, np.int64)
        self._owners = np.searchsorted(ends, np.flatnonzero(is_start), side="right")
        self._count = len(texts)
        self._prefix = np.zeros(len(kept) + 1, np.uint64)
        np.cumsum(kept * _powers(_BASE, len(kept)), out=self._prefix[1:])
        self._inverse = _powers(pow(_BASE, -1, 1 << 64), len(kept) + 1)

    def words(self) -> NDArray[np.int64]:
        """Number of words of each text."""
        return np.bincount(self._owners, minlength=self._count).astype(np.int64)

    def hashes(self, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Hashes of all runs of `size` words, text by text, and the number of runs of each text."""
        words = len(self._owners)
        if words < size:
            return np.zeros(0, np.uint64), np.zeros(self._count, np.int64)
        first = np.arange(words - size + 1)
        inside = self._owners[first] == self._owners[first + size - 1]
        first = first[inside]
        starts, ends = self._starts[first], self._starts[first + size]
        values = _mix((self._prefix[ends] - self._prefix[starts]) * self._inverse[starts])
        return values, np.bincount(self._owners[first], minlength=self._count).astype(np.int64)

    def whole(self) -> NDArray[np.uint64]:
        """One hash of all words of each text."""
        edges = np.searchsorted(self._owners, np.arange(self._count + 1))
        starts, ends = self._starts[edges[:-1]], self._starts[edges[1:]]
        return _mix((self._prefix[ends] - self._prefix[starts]) * self._inverse[starts])
