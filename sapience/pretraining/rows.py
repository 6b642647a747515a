"""The token stream as the training loop wants it: micro-batches of a step, and a hash of everything drawn so far."""

from collections.abc import Callable, Sequence

import torch

from sapience.corpus.stream import ChangingStream, Rows, TokenStream, chain
from sapience.model.batch import Microbatch, from_rows


class StreamRows:
    """Rows of a token stream, cut into micro-batches of at most `micro_rows`, or as `cut` says (sizes from a number)."""

    def __init__(
        self,
        stream: TokenStream | ChangingStream,
        micro_rows: int,
        isolate: bool = False,
        cut: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        self.stream = stream
        self.cut = cut or (lambda rows: [min(micro_rows, rows - start) for start in range(0, rows, micro_rows)])
        self.isolate = isolate
        self._last: Rows | None = None

    def microbatches(self, first_row: int, rows: int) -> list[Microbatch]:
        """Rows `first_row` to `first_row + rows` of the stream."""
        drawn = self.stream.rows(first_row, rows)
        self._last = drawn
        sizes = list(self.cut(rows))
        tokens = torch.from_numpy(drawn.tokens).split(sizes)
        documents = torch.from_numpy(drawn.documents).split(sizes)
        return [from_rows(each, of, self.isolate) for each, of in zip(tokens, documents, strict=True)]

    def chain(self, previous: str) -> str:
        """Hash of the rows drawn last, chained to the hash of all rows before."""
        assert self._last is not None
        return chain(previous, self._last)
