"""Packing documents into rows with few cuts (best fit, after Ding et al. 2024, whose data integrity V3 cites).

A document longer than a row is cut into row-long pieces that overlap by one token, so that every next-token prediction
of the document occurs exactly once. What is shorter than a row is packed by best fit, largest first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Plan:
    """Which pieces make up which rows."""

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    """Per piece: its document, first token within it, tokens."""
    first: NDArray[np.int64]
    """Row r has the pieces first[r] to first[r+1]."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.first) - 1


def cut(lengths: NDArray[np.int64], row: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pieces (document, start, size) of at most `row` tokens, neighbours overlapping by one; documents under two tokens
    predict nothing and give none."""
    step = row - 1
    counts = np.where(lengths >= 2, -(-(lengths - 1) // step), 0)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * step
    return document, start, np.minimum(row, lengths[document] - start)


def pack(lengths: NDArray[np.int64], row: int, generator: np.random.Generator) -> Plan:
    """Rows of at most `row` tokens from documents of the given lengths; the rows' order is drawn from `generator`."""
    document, start, size = cut(lengths, row)
    bins: list[list[int]] = []
    room: dict[int, list[int]] = {}
    open_rooms = 0
    for piece in np.argsort(-size, kind="stable").tolist():
        need = int(size[piece])
        fitting = open_rooms >> need
        if fitting:
            left = need + (fitting & -fitting).bit_length() - 1
            chosen = room[left].pop()
            if not room[left]:
                open_rooms &= ~(1 << left)
            bins[chosen].append(piece)
        else:
            chosen, left = len(bins), row
            bins.append([piece])
        left -= need
        if left >= 2:
            room.setdefault(left, []).append(chosen)
            open_rooms |= 1 << left
    order = generator.permutation(len(bins)).tolist()
    pieces = np.array([piece for index in order for piece in bins[index]], dtype=np.int64)
    first = np.concatenate(([0], np.cumsum([len(bins[index]) for index in order]))).astype(np.int64)
    return Plan(document[pieces], start[pieces], size[pieces], first)
