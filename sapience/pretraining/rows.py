"""The token stream as the training loop wants it: micro-batches of a step, and a hash of everything drawn so far."""

import torch

from sapience.corpus.stream import ChangingStream, Rows, TokenStream, chain
from sapience.model.batch import Microbatch, from_rows


class StreamRows:
    """Rows of a token stream, cut into micro-batches of at most `micro_rows`."""

    def __init__(self, stream: TokenStream | ChangingStream, micro_rows: int, isolate: bool = False) -> None:
        self.stream = stream
        self.micro_rows = micro_rows
        self.isolate = isolate
        self._last: Rows | None = None

    def microbatches(self, first_row: int, rows: int) -> list[Microbatch]:
        """Rows `first_row` to `first_row + rows` of the stream."""
        drawn = self.stream.rows(first_row, rows)
        self._last = drawn
        tokens = torch.from_numpy(drawn.tokens)
        documents = torch.from_numpy(drawn.documents)
        size = self.micro_rows
        return [from_rows(tokens[i : i + size], documents[i : i + size], self.isolate) for i in range(0, rows, size)]

    def chain(self, previous: str) -> str:
        """Hash of the rows drawn last, chained to the hash of all rows before."""
        assert self._last is not None
        return chain(previous, self._last)
