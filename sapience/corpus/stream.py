"""The token stream: row number n of a training run, as a pure function of (seed, n).

Any number of ranks, any restart draws the same rows. Each domain is an endless sequence of rows (its documents permuted
anew every epoch, packed block by block); blocks of rows are dealt to the domains by weight, so that any prefix of the
stream has nearly exact shares. The weights may change at given rows. Nothing here has state but caches.
"""

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.packing import Plan, pack
from sapience.corpus.shards import TokenShard
from sapience.recipe.errors import UserError

PACKED_TOGETHER = 4096
"""Documents that are packed with one another."""
PLANS_KEPT = 4
"""Plans held in memory per domain; others are computed again when needed."""
PAD_ID = 2
"""Fills the end of a row; its positions are masked by document number -1."""


@dataclass(frozen=True)
class Rows:
    """Rows of length + 1 tokens."""

    tokens: NDArray[np.int64]
    documents: NDArray[np.int32]
    """Number of the document within its row; -1 is padding."""


def chain(previous: str, rows: Rows) -> str:
    """Hash of the stream so far from the hash before and the rows drawn since."""
    digest = hashlib.sha256(previous.encode())
    digest.update(rows.tokens.tobytes())
    digest.update(rows.documents.tobytes())
    return digest.hexdigest()[:32]


class DomainRows:
    """One domain's endless rows."""

    def __init__(self, name: str, shard: TokenShard, length: int, seed: int) -> None:
        self.name, self.shard, self.row, self.seed = name, shard, length + 1, seed
        self.lengths = np.diff(shard.offsets)
        if not (self.lengths >= 2).any():
            raise UserError(f"domain {name} of the mixture has no text to train on: leave it out or give it a source")
        self.blocks_per_epoch = ceil(shard.documents / PACKED_TOGETHER)
        self._ends: list[int] = []
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._plans: OrderedDict[int, tuple[Plan, NDArray[np.int64]]] = OrderedDict()

    def fill(self, number: int, tokens: NDArray[np.int64], documents: NDArray[np.int32]) -> None:
        """Write row `number` into arrays prefilled with padding."""
        block = self._block_of(number)
        plan, chosen = self._plan(block)
        at = 0
        row = number - (self._ends[block - 1] if block else 0)
        for index, piece in enumerate(range(plan.first[row], plan.first[row + 1])):
            size = int(plan.size[piece])
            begin = int(self.shard.offsets[chosen[plan.document[piece]]] + plan.start[piece])
            tokens[at : at + size] = self.shard.tokens[begin : begin + size]
            documents[at : at + size] = index
            at += size

    def _block_of(self, number: int) -> int:
        while not self._ends or self._ends[-1] <= number:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self._plan(len(self._ends))[0].rows)
        return int(np.searchsorted(self._ends, number, side="right"))

    def _plan(self, block: int) -> tuple[Plan, NDArray[np.int64]]:
        if block in self._plans:
            self._plans.move_to_end(block)
            return self._plans[block]
        epoch, part = divmod(block, self.blocks_per_epoch)
        name = zlib.crc32(self.name.encode())
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, name, epoch]).permutation(self.shard.documents)
        order = self._order[1]
        chosen = order[part * PACKED_TOGETHER : (part + 1) * PACKED_TOGETHER]
        plan = pack(self.lengths[chosen], self.row, np.random.default_rng([self.seed, name, epoch, part]))
        self._plans[block] = plan, chosen
        if len(self._plans) > PLANS_KEPT:
            self._plans.popitem(last=False)
        return plan, chosen


class TokenStream:
    """The mixture."""

    def __init__(
        self,
        shards: Mapping[str, TokenShard],
        weights: Mapping[str, float],
        length: int,
        seed: int,
        drawn: Mapping[str, int] | None = None,
    ) -> None:
        """`weights` are relative shares of the rows, `length` the context in tokens (rows have one more); `drawn` are rows
        of each domain that went before, after which its own go on.

        Raises UserError for a domain that has no shard or no text.
        """
        absent = sorted(set(weights) - set(shards))
        if absent:
            raise UserError(f"the mixture names {', '.join(absent)}; the corpus has {', '.join(sorted(shards))}")
        if not weights or min(weights.values()) <= 0:
            raise UserError("a mixture needs at least one domain, and weights above zero")
        self.length, self.seed = length, seed
        self.names = sorted(weights)
        self.domains = [DomainRows(name, shards[name], length, seed) for name in self.names]
        self.before = [(drawn or {}).get(name, 0) for name in self.names]
        shares = np.array([weights[name] for name in self.names], dtype=np.float64)
        self.edges = np.cumsum(shares / shares.sum())
        self.edges[-1] = 1.0
        self.block = max(256, ceil(4 * shares.sum() / shares.min()))
        self._last: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def rows(self, start: int, count: int) -> Rows:
        """Rows `start` to `start + count` of the stream."""
        tokens = np.full((count, self.length + 1), PAD_ID, dtype=np.int64)
        documents = np.full((count, self.length + 1), -1, dtype=np.int32)
        for index in range(count):
            domain, number = self.locate(start + index)
            self.domains[domain].fill(self.before[domain] + number, tokens[index], documents[index])
        return Rows(tokens, documents)

    def drawn(self, rows: int) -> dict[str, int]:
        """Rows of each domain among the first `rows`, those that went before the stream included."""
        block, place = divmod(rows, self.block)
        counts = self._dealt(block) + np.bincount(self._domains(block)[:place], minlength=len(self.names))
        return {name: before + int(count) for name, before, count in zip(self.names, self.before, counts, strict=True)}

    def locate(self, row: int) -> tuple[int, int]:
        """Domain of a row of the stream, and its number among that domain's rows."""
        block, place = divmod(row, self.block)
        if self._last is None or self._last[0] != block:
            self._last = block, self._domains(block), self._dealt(block)
        _, dealt, before = self._last
        domain = int(dealt[place])
        return domain, int(before[domain] + np.count_nonzero(dealt[:place] == domain))

    def _domains(self, block: int) -> NDArray[np.int64]:
        """The domain of every row of a block."""
        counts = self._dealt(block + 1) - self._dealt(block)
        return np.random.default_rng([self.seed, 1, block]).permutation(np.repeat(np.arange(len(counts)), counts))

    def _dealt(self, blocks: int) -> NDArray[np.int64]:
        """Rows that each domain has received in so many whole blocks."""
        ends = np.floor(self.edges * (self.block * blocks) + 0.5).astype(np.int64)
        dealt: NDArray[np.int64] = np.diff(ends, prepend=0)
        return dealt


class ChangingStream:
    """A stream whose mixture changes at given rows. Every domain goes on where it was, so that no text comes again sooner
    than it would under one mixture; a change that is never reached changes nothing before it."""

    def __init__(
        self,
        shards: Mapping[str, TokenShard],
        stretches: Sequence[tuple[int, Mapping[str, float]]],
        length: int,
        seed: int,
    ) -> None:
        """`stretches` are (first row, weights), the first at row 0, in order. Raises UserError as `TokenStream` does."""
        self.starts = [start for start, _ in stretches]
        self.streams: list[TokenStream] = []
        drawn: dict[str, int] = {}
        for place, (start, weights) in enumerate(stretches):
            if place:
                drawn = drawn | self.streams[-1].drawn(start - self.starts[place - 1])
            self.streams.append(TokenStream(shards, weights, length, seed, drawn))

    def rows(self, start: int, count: int) -> Rows:
        """Rows `start` to `start + count` of the stream."""
        parts = []
        ends = [*self.starts[1:], start + count]
        for begin, end, stream in zip(self.starts, ends, self.streams, strict=True):
            low, high = max(start, begin), min(start + count, end)
            if low < high:
                parts.append(stream.rows(low - begin, high - low))
        return Rows(np.concatenate([part.tokens for part in parts]), np.concatenate([part.documents for part in parts]))
