"""Moving tokens to their experts and back: gathers whose gradients are gathers too.

PyTorch's own gradient of an index is a scatter-add, slow on a CPU and unordered on a GPU. A token's K copies are sorted
by expert once; the inverse of that order turns every scatter into a gather, so that both passes are deterministic.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExpertOrder:
    """Where each copy of each token goes when copies are sorted by expert."""

    order_N: Tensor
    """Copy (token·K + choice) that stands at each sorted place."""
    inverse_N: Tensor
    """Sorted place of each copy."""
    counts_E: Tensor
    """Copies per expert."""
    choices: int
    """K."""


def expert_order(experts_TK: Tensor, experts: int) -> ExpertOrder:
    """Sort the copies of T tokens by their experts (stable, so that equal inputs give equal sums)."""
    flat = experts_TK.reshape(-1)
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    counts = torch.zeros(experts, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    return ExpertOrder(order, inverse, counts, experts_TK.shape[-1])


def dispatch(tokens_TD: Tensor, order: ExpertOrder) -> Tensor:
    """A copy of its token for every choice, sorted by expert: [N, D]."""
    copies: Tensor = _Dispatch.apply(tokens_TD, order.order_N, order.inverse_N, order.choices)
    return copies


def combine(outputs_ND: Tensor, weights_TK: Tensor, order: ExpertOrder) -> Tensor:
    """Weighted sum of each token's K expert outputs: [T, D]."""
    placed = _Unsort.apply(outputs_ND, order.order_N, order.inverse_N)
    choices_TKD = placed.view(-1, order.choices, outputs_ND.shape[-1])
    # A multiply and a sum, not an einsum: that becomes one tiny matrix product per token, three times slower.
    return (choices_TKD * weights_TK.to(outputs_ND.dtype).unsqueeze(-1)).sum(1)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_TD: Tensor, order_N: Tensor, inverse_N: Tensor, choices: int) -> Tensor:
        ctx.save_for_backward(inverse_N)
        ctx.choices = choices
        return tokens_TD.index_select(0, order_N // choices)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_N,) = ctx.saved_tensors
        slope_ND = slopes[0]
        gathered = slope_ND.index_select(0, inverse_N)
        return gathered.view(-1, ctx.choices, slope_ND.shape[-1]).sum(1), None, None, None


class _Unsort(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sorted_ND: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
        ctx.save_for_backward(order_N)
        return sorted_ND.index_select(0, inverse_N)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (order_N,) = ctx.saved_tensors
        return slopes[0].index_select(0, order_N), None, None
