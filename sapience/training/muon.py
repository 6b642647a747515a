"""Muon: momentum, orthogonalised, for the hidden matrices (Jordan 2024; scaled as in Liu et al. 2025, Moonlight).

Adam treats a matrix as a bag of numbers; Muon replaces its momentum M = U S V^T by U V^T, so that every direction moves
equally far. The orthogonal factor comes from a Newton-Schulz iteration, which needs products only. Experts' matrices are
stacked, and matrices of equal shape are gathered, so that the iteration runs as a few batched products.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic whose iteration drives singular values quickly into about [0.7, 1.2]; exactness is not needed (Jordan 2024)."""


def orthogonalise(matrices_SJK: Tensor, iterations: int) -> Tensor:
    """About U V^T of each matrix in a stack, by `iterations` quintic Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    wide = matrices_SJK.shape[-2] <= matrices_SJK.shape[-1]
    x = matrices_SJK if wide else matrices_SJK.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Updates parameters of two or more dimensions; leading dimensions are stacks of matrices."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, iterations: int, update: float, weight_decay: float
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "iterations": iterations, "update": update, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update: Nesterov momentum, orthogonalised, scaled to a root mean square of `update`, decoupled decay."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                by_shape[tuple(parameter.shape[-2:])].append((parameter, self._nesterov(parameter, group)))
            for (rows, columns), entries in by_shape.items():
                stacked = torch.cat([direction.reshape(-1, rows, columns) for _, direction in entries])
                moves = orthogonalise(stacked, group["iterations"]) * (group["update"] * max(rows, columns) ** 0.5)
                at = 0
                for parameter, _ in entries:
                    count = parameter.numel() // (rows * columns)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(moves[at : at + count].view_as(parameter), alpha=group["lr"])
                    at += count

    def _nesterov(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(momentum, group["momentum"])
