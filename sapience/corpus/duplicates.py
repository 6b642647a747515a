"""Which documents repeat an earlier one, exactly or nearly.

Two documents are near duplicates where their sets of five-word runs overlap by the wanted Jaccard similarity, as
estimated by MinHash (Broder 1997). Candidates share all values of a band (locality-sensitive hashing); a candidate is
dropped only where the estimate over all values agrees. Documents come in an order, and the earlier one stays.

Memory is bounded: signatures may lie on disk (256 bytes a document), and one band at a time is sorted in memory
(16 bytes a document). In a bucket each document is compared with the one before it and with the first, so that buckets
of thousands of like pages cost no more than they have members.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.ngrams import WordRuns

PERMUTATIONS = 64
"""MinHash values of a document; the estimate's standard error is at most 1 / (2 * 8) = 0.06."""
ROWS_OF_BAND = 4
"""Values of a band: 16 bands find a pair of similarity 0.7 with a chance of 1 - (1 - 0.7^4)^16 = 98.8 %."""
RUN_OF_WORDS = 5
_SEED = 20240914
CHUNK = 1 << 16


def signatures(runs: WordRuns) -> NDArray[np.uint32]:
    """MinHash values [texts, PERMUTATIONS]. A text of fewer than five words is like no other but its equal."""
    from rensa import RMinHash

    hashes, counts = runs.hashes(RUN_OF_WORDS)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, _SEED)
    values = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(counts), PERMUTATIONS)
    short = counts == 0
    places = np.arange(1, PERMUTATIONS + 1, dtype=np.uint64)
    values[short] = ((runs.whole()[short, None] * places) >> np.uint64(32)).astype(np.uint32)
    return values


def exact_duplicates(identities: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True for each document whose identity an earlier one has."""
    _, first = np.unique(identities, return_index=True)
    repeated = np.ones(len(identities), bool)
    repeated[first] = False
    return repeated


def near_duplicates(
    parts: Sequence[NDArray[np.uint32]], considered: NDArray[np.bool_], similarity: float
) -> NDArray[np.bool_]:
    """True for each considered document that is near to an earlier considered one.

    `parts` are signatures of consecutive documents, `considered` [documents] says which take part.
    """
    dropped = np.zeros(len(considered), bool)
    if similarity >= 1 or not len(considered):
        return dropped
    edges = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    members = np.flatnonzero(considered)
    for band in range(PERMUTATIONS // ROWS_OF_BAND):
        columns = slice(band * ROWS_OF_BAND, (band + 1) * ROWS_OF_BAND)
        keys = np.concatenate([_band_keys(part, columns) for part in parts])[members]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        follows = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        if not len(follows):
            continue
        heads = np.searchsorted(ordered, ordered[follows], side="left")
        later = members[order[follows]]
        for earlier in (members[order[follows - 1]], members[order[heads]]):
            alike = _similar(parts, edges, earlier, later, similarity)
            dropped[later[alike]] = True
    return dropped


def _band_keys(part: NDArray[np.uint32], columns: slice) -> NDArray[np.uint64]:
    """One number per document for a band."""
    values = np.asarray(part[:, columns]).astype(np.uint64)
    keys = np.zeros(len(values), np.uint64)
    for column in range(values.shape[1]):
        keys = (keys ^ values[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _similar(
    parts: Sequence[NDArray[np.uint32]],
    edges: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    similarity: float,
) -> NDArray[np.bool_]:
    alike = np.zeros(len(first), bool)
    for start in range(0, len(first), CHUNK):
        chunk = slice(start, start + CHUNK)
        one, other = (_rows(parts, edges, index[chunk]) for index in (first, second))
        alike[chunk] = (one == other).mean(axis=1) >= similarity
    return alike


def _rows(
    parts: Sequence[NDArray[np.uint32]], edges: NDArray[np.int64], index: NDArray[np.int64]
) -> NDArray[np.uint32]:
    rows = np.empty((len(index), PERMUTATIONS), np.uint32)
    owners = np.searchsorted(edges, index, side="right") - 1
    for owner in np.unique(owners):
        chosen = owners == owner
        rows[chosen] = parts[owner][index[chosen] - edges[owner]]
    return rows
