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
    """About U V^T of each matrix in a stack, by `iterations` quintic Newton-Schulz steps. On a GPU in bfloat16, which the
    iteration bears (Jordan 2024)."""
    a, b, c = COEFFICIENTS
    wide = matrices_SJK.shape[-2] <= matrices_SJK.shape[-1]
    x = matrices_SJK if wide else matrices_SJK.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda:
        x = x.to(torch.bfloat16)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Updates parameters of two or more dimensions; leading dimensions are stacks of matrices.

    `factor` decides on the tensors' device, as AdamW's does: the gradients are multiplied by it, and where it is not finite
    nothing moves.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, iterations: int, update: float, weight_decay: float
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "iterations": iterations, "update": update, "weight_decay": weight_decay},
        )
        self.factor: Tensor | None = None
        """A scalar in float32; None for one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update: Nesterov momentum, orthogonalised, scaled to a root mean square of `update`, decoupled decay."""
        moving = None if self.factor is None else self.factor.isfinite()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[tuple(parameter.shape[-2:])].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                directions = self._nesterov(parameters, group["momentum"], moving)
                stacked = torch.cat([direction.reshape(-1, rows, columns) for direction in directions])
                moves = orthogonalise(stacked, group["iterations"])
                self._move(parameters, moves, group, group["update"] * max(rows, columns) ** 0.5, moving)

    def _nesterov(self, parameters: list[Tensor], decay: float, moving: Tensor | None) -> list[Tensor]:
        """What is to be orthogonalised; the momenta move on, unless the gradients are not to be used."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta: list[Tensor] = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.factor is not None and moving is not None:
            shortened = torch._foreach_mul(gradients, self.factor)
            gradients = [torch.where(moving, *pair) for pair in zip(shortened, momenta, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        return list(torch._foreach_lerp(gradients, momenta, decay))

    def _move(
        self, parameters: list[Tensor], moves: Tensor, group: dict[str, Any], scale: float, moving: Tensor | None
    ) -> None:
        decay = group["lr"] * group["weight_decay"]
        if moving is None:
            moves = moves * scale
            torch._foreach_mul_(parameters, 1 - decay)
        else:
            moves = moves.to(parameters[0].dtype) * (scale * moving)
            torch._foreach_mul_(parameters, 1 - decay * moving)
        parts = moves.split([parameter.numel() // moves[0].numel() for parameter in parameters])
        shaped = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-group["lr"])
