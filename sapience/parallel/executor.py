"""The step executor: all that the training loop knows of how gradients come about.

    forward_backward(microbatches, denominator) -> sums

leaves in every parameter's `grad` the gradient of (sum of losses) / denominator and returns the sums themselves. A plain
loop does it here; sharded data parallelism and pipelines implement the same call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sapience.model.batch import Microbatch
from sapience.model.transformer import Transformer


@dataclass(frozen=True)
class Sums:
    """What a step adds up over its micro-batches (and over all ranks)."""

    values: dict[str, Tensor]
    """Named scalar sums, detached."""
    loads_LE: Tensor
    """Tokens per expert for every layer with experts, in the order of `Transformer.gates`."""

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            {name: value + other.values[name] for name, value in self.values.items()}, self.loads_LE + other.loads_LE
        )


Objective = Callable[[Transformer, Microbatch], tuple[Tensor, Sums]]
"""The sum of losses to differentiate, not yet divided by anything, and the sums to report."""


class StepExecutor(Protocol):
    """Anything that can run a step's forward and backward passes."""

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        """Add the gradient of the losses' sum / denominator to every parameter's `grad`; return the sums."""


class PlainLoop:
    """One process, one device: micro-batches one after another."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        self.model = model
        self.objective = objective

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        """See StepExecutor. Raises ValueError for an empty step or a denominator that is not positive."""
        if not microbatches or not denominator > 0:
            raise ValueError(f"a step needs micro-batches and a positive denominator, got {denominator}")
        total: Sums | None = None
        device = self.model.embedding.weight.device
        for microbatch in microbatches:
            loss, sums = self.objective(self.model, microbatch.to(device))
            torch.autograd.backward(loss / denominator)
            total = sums if total is None else total + sums
        assert total is not None
        return total
