"""Gradients of weights that are made later than those of inputs.

In a pipeline the stage before waits for the gradient of a stage's input, and nobody for those of its weights: a schedule may
put them off into what would be a bubble (Qi et al. 2023; DeepSeek-V3 report, section 3.2.1). An op whose backward pass makes
both asks here for the weight's. Small ones (norms, gate, embedding, head) are not put off, nor is anything inside of compiled
layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class _State:
    expected: bool = False
    queue: "list[Callable[[], None]] | None" = None


_state = _State()
"""Not one for each thread: backward passes on a GPU run in threads of their own."""


@dataclass
class Later:
    """What the backward passes of some chunks have put off, first in, first out."""

    chunks: list[list[Callable[[], None]]] = field(default_factory=list)

    @contextmanager
    def chunk(self) -> Iterator[None]:
        """A backward pass in here makes gradients of inputs only; those of weights are one more entry of the queue."""
        before, _state.queue = _state.queue, []
        try:
            yield
            self.chunks.append(_state.queue)
        finally:
            _state.queue = before

    @torch.no_grad()
    def make(self) -> None:
        """Add the first chunk's gradients to the weights'. Raises IndexError where nothing has been put off."""
        for gradient in self.chunks.pop(0):
            gradient()


@contextmanager
def expected() -> Iterator[None]:
    """Forward passes in here take ops that can put off, also where PyTorch's own would do."""
    before, _state.expected = _state.expected, True
    try:
        yield
    finally:
        _state.expected = before


def is_expected() -> bool:
    """Whether a backward pass may be divided."""
    return _state.expected


def kept(weight: Tensor) -> Tensor | None:
    """What a forward pass keeps for `weight_gradient`: the weight, if its gradient may be put off."""
    return weight if _state.expected else None


def weight_gradient(weight: Tensor | None, make: Callable[[], Tensor]) -> Tensor | None:
    """make(), to be returned by a backward pass; None where it is put off: then it is added to the weight's `grad` later."""
    if weight is None or _state.queue is None:
        return make()

    def add() -> None:
        gradient = make()
        weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    _state.queue.append(add)
    return None
