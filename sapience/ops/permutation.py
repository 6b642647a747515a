"""Moving tokens to their experts and back: gathers whose gradients are gathers too.

PyTorch's own gradient of an index is a scatter-add, slow on a CPU and unordered on a GPU. A token's K copies are sorted
by expert once; the inverse of that order turns every scatter into a gather, so that both passes are deterministic. For
products in blocks, an expert's group may be filled up with empty places to a multiple of rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class ExpertOrder:
    """Where each copy of each token goes when copies are sorted by expert."""

    order_N: Tensor
    """Copy (token·K + choice) that stands at each sorted place; T·K at an empty place."""
    inverse_N: Tensor
    """Sorted place of each of the T·K copies."""
    counts_E: Tensor
    """Places per expert, empty ones within its group included; places behind the last group belong to nobody."""
    choices: int
    """K."""

    @property
    def tokens_N(self) -> Tensor:
        """Token at each sorted place; T at an empty place."""
        return self.order_N // self.choices


def expert_order(experts_TK: Tensor, experts: int, multiple: int = 1) -> ExpertOrder:
    """Sort the copies of T tokens by their experts (stable, so that equal inputs give equal sums).

    With a `multiple` above one every group has that many places or a multiple of it, and there are as many places as that
    can take at most, so that their number does not depend on the routing.
    """
    flat = experts_TK.reshape(-1)
    copies = flat.numel()
    order = flat.argsort(stable=True)
    place = torch.arange(copies, device=order.device)
    counts = torch.zeros(experts, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    if multiple > 1:
        filled = (counts + multiple - 1) // multiple * multiple
        shift_E = (filled.cumsum(0) - filled) - (counts.cumsum(0) - counts)
        place = place + shift_E[flat[order]]
        places = (copies + experts * (multiple - 1)) // multiple * multiple
        inverse = torch.empty_like(order).scatter_(0, order, place)
        order = torch.full((places,), copies, dtype=order.dtype, device=order.device).scatter_(0, place, order)
        return ExpertOrder(order, inverse, filled, experts_TK.shape[-1])
    inverse = torch.empty_like(order).scatter_(0, order, place)
    return ExpertOrder(order, inverse, counts, experts_TK.shape[-1])


def gather_copies(tokens_TD: Tensor, order: ExpertOrder) -> Tensor:
    """A copy of its token for every place, zeros at empty ones: [N, D]. No gradient; `dispatch` has one."""
    if order.order_N.shape == order.inverse_N.shape:
        return tokens_TD.index_select(0, order.tokens_N)
    return torch.cat((tokens_TD, tokens_TD.new_zeros(1, tokens_TD.shape[1]))).index_select(0, order.tokens_N)


def sum_copies(rows_ND: Tensor, order: ExpertOrder) -> Tensor:
    """The sum of what stands at the places of each token's copies: [T, D]. No gradient; `combine` has one."""
    if rows_ND.is_cuda and rows_ND.dtype in (torch.bfloat16, torch.float32):
        from sapience.ops import permutation_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

        return permutation_kernel.sum_copies(rows_ND, order.inverse_N, order.choices)
    if rows_ND.dtype == torch.float32:
        return functional.embedding_bag(order.inverse_N.view(-1, order.choices), rows_ND, mode="sum")
    gathered = rows_ND.index_select(0, order.inverse_N)
    return gathered.view(-1, order.choices, rows_ND.shape[-1]).sum(1)


def dispatch(tokens_TD: Tensor, order: ExpertOrder) -> Tensor:
    """`gather_copies`, differentiable."""
    copies: Tensor = _Dispatch.apply(tokens_TD, order.order_N, order.inverse_N, order.counts_E, order.choices)
    return copies


def combine(rows_ND: Tensor, order: ExpertOrder) -> Tensor:
    """`sum_copies`, differentiable."""
    tokens: Tensor = _Combine.apply(rows_ND, order.order_N, order.inverse_N, order.counts_E, order.choices)
    return tokens


def sort_weights(weights_TK: Tensor, order: ExpertOrder) -> Tensor:
    """Each copy's weight at its sorted place, zero at empty ones: [N], differentiable."""
    weights: Tensor = _SortWeights.apply(weights_TK, order.order_N, order.inverse_N)
    return weights


def _order(ctx: Any) -> ExpertOrder:
    order_N, inverse_N, counts_E = ctx.saved_tensors
    return ExpertOrder(order_N, inverse_N, counts_E, ctx.choices)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens_TD: Tensor, order_N: Tensor, inverse_N: Tensor, counts_E: Tensor, choices: int
    ) -> Tensor:
        ctx.save_for_backward(order_N, inverse_N, counts_E)
        ctx.choices = choices
        return gather_copies(tokens_TD, ExpertOrder(order_N, inverse_N, counts_E, choices))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        return sum_copies(slopes[0], _order(ctx)), None, None, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, order_N: Tensor, inverse_N: Tensor, counts_E: Tensor, choices: int
    ) -> Tensor:
        ctx.save_for_backward(order_N, inverse_N, counts_E)
        ctx.choices = choices
        return sum_copies(rows_ND, ExpertOrder(order_N, inverse_N, counts_E, choices))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gather_copies(slopes[0], _order(ctx)), None, None, None, None


class _SortWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights_TK: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_N)
        ctx.shape = weights_TK.shape
        flat = weights_TK.reshape(-1)
        if order_N.shape != inverse_N.shape:
            flat = torch.cat((flat, flat.new_zeros(1)))
        return flat.index_select(0, order_N)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (inverse_N,) = ctx.saved_tensors
        return slopes[0].index_select(0, inverse_N).view(ctx.shape), None, None
