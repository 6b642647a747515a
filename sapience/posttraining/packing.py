"""Samples packed into rows, mutually invisible (DeepSeek-V3 report, section 5.1), as a source for the step loop.

First fit, longest first, so that little is padding; rows are then shuffled anew every epoch by the seed. The order is a
pure function of (seed, row), so a run goes on after a kill with the rows it would have had.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sapience.corpus.chat import Rendered
from sapience.model.batch import Microbatch
from sapience.ops.cross_entropy import IGNORE


class PackedSamples:
    """Rows of whole samples; loss on what the assistant says only."""

    def __init__(
        self, samples: Sequence[Rendered], length: int, micro_rows: int, seed: int, pad_id: int, isolate: bool = True
    ) -> None:
        """A sample of more than `length` + 1 tokens is left out; `too_long` counts them."""
        kept = [sample for sample in samples if len(sample.tokens) <= length + 1]
        self.too_long = len(samples) - len(kept)
        self.samples, self.length, self.micro_rows = kept, length, micro_rows
        self.seed, self.pad_id, self.isolate = seed, pad_id, isolate
        self.rows = first_fit([len(sample.tokens) for sample in kept], length + 1)
        self._order: tuple[int, np.ndarray] | None = None
        self._last: list[Microbatch] = []

    def microbatches(self, first_row: int, rows: int) -> list[Microbatch]:
        """Rows `first_row` to `first_row + rows` of the endless sequence of epochs."""
        chosen = [self.rows[self._place(first_row + i)] for i in range(rows)]
        size = self.micro_rows
        self._last = [self._batch(chosen[i : i + size]) for i in range(0, rows, size)]
        return self._last

    def chain(self, previous: str) -> str:
        """Hash of the rows drawn last, chained to the hash of all rows before."""
        digest = hashlib.sha256(previous.encode())
        for batch in self._last:
            digest.update(batch.tokens_BT.numpy().tobytes())
            digest.update(batch.labels_BT.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _place(self, row: int) -> int:
        epoch, place = divmod(row, len(self.rows))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return int(self._order[1][place])

    def _batch(self, rows: Sequence[Sequence[int]]) -> Microbatch:
        # Cut to the longest of these rows: a row that is all padding at its end costs time for nothing.
        width = max(sum(len(self.samples[i].tokens) for i in row) for row in rows)
        tokens = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        labels = torch.full((len(rows), width), IGNORE, dtype=torch.int64)
        documents = torch.full((len(rows), width), -1, dtype=torch.int32)
        for number, row in enumerate(rows):
            at = 0
            for index, sample in enumerate(row):
                end = at + len(self.samples[sample].tokens)
                tokens[number, at:end] = torch.tensor(self.samples[sample].tokens)
                labels[number, at : end - 1] = next_tokens(self.samples[sample])
                documents[number, at:end] = index
                at = end
        return Microbatch(tokens, labels, documents, self.isolate)


def next_tokens(sample: Rendered) -> Tensor:
    """Labels of a sample's positions but the last: the next token where it is to be learned, else IGNORE."""
    following = torch.tensor(sample.tokens[1:])
    return torch.where(torch.tensor(sample.learn[1:]), following, IGNORE)


def first_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of the samples of each row of at most `size` tokens: longest first, into the first row with room."""
    rows: list[list[int]] = []
    room = np.zeros(0, dtype=np.int64)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = np.flatnonzero(room >= lengths[index])
        if len(fitting):
            row = int(fitting[0])
            rows[row].append(index)
            room[row] -= lengths[index]
        else:
            rows.append([index])
            room = np.append(room, size - lengths[index])
    return rows
