"""The routed experts as one differentiable step: rows to their experts, SwiGLU, weighted, back to [N, D].

The gate's weight multiplies an expert's inner row, in front of its last product instead of behind it: the same result, and
the weight's gradient then needs the inner row only, not the output. Of the forward pass the tokens and the products that
SwiGLU takes are kept; copies of tokens and SwiGLU's results are made again (DeepSeek-V3 recomputes SwiGLU too; section 3.2.3).

Weights may be wider than the rows: products then take narrower copies, and gradients come back in the weights' type.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.grouped import grouped_data_gradient, grouped_linear, grouped_weight_gradient
from sapience.ops.permutation import ExpertOrder, gather_copies, sum_copies
from sapience.ops.put_off import kept, weight_gradient


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(first half) · second half, along the last dimension."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def swiglu_gradient(gate_and_up: Tensor, slope: Tensor) -> Tensor:
    """The gradient of `swiglu` in its argument."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    share = gate.sigmoid()
    silu = gate * share
    return torch.cat((slope * up * (share + silu * (1 - share)), slope * silu), dim=-1)


@dataclass(frozen=True)
class ExpertWeights:
    """The stacked matrices of a layer's experts, and what the products take: themselves, or copies in the rows' type."""

    gate_up_EFD: Tensor
    """[E, 2F, D]: gate, then up."""
    down_EDF: Tensor
    gate_up_copy: Tensor
    down_copy: Tensor


def reference(rows_ND: Tensor, weights_N: Tensor, matrices: ExpertWeights, counts_E: Tensor) -> Tensor:
    """weight · expert(row) for rows sorted by expert, counts[e] of them for expert e; autograd differentiates it."""
    inner_NF = swiglu(grouped_linear(rows_ND, matrices.gate_up_EFD.to(rows_ND.dtype), counts_E))
    weighted_NF = inner_NF * weights_N.to(inner_NF.dtype).unsqueeze(1)
    return grouped_linear(weighted_NF, matrices.down_EDF.to(rows_ND.dtype), counts_E)


def sorted_experts(rows_ND: Tensor, weights_N: Tensor, matrices: ExpertWeights, counts_E: Tensor) -> Tensor:
    """`reference` with less kept for the backward pass."""
    return _apply(rows_ND, weights_N, matrices, counts_E, None)


def routed_experts(tokens_TD: Tensor, weights_N: Tensor, matrices: ExpertWeights, order: ExpertOrder) -> Tensor:
    """`sorted_experts` of the tokens' copies, which are not kept but gathered again, summed over each token's: [T, D]."""
    return _apply(tokens_TD, weights_N, matrices, order.counts_E, order)


def _apply(
    rows: Tensor, weights_N: Tensor, matrices: ExpertWeights, counts_E: Tensor, order: ExpertOrder | None
) -> Tensor:
    outputs_ND: Tensor = _Experts.apply(
        rows,
        weights_N,
        matrices.gate_up_EFD,
        matrices.down_EDF,
        matrices.gate_up_copy.detach(),
        matrices.down_copy.detach(),
        counts_E,
        None if order is None else order.order_N,
        None if order is None else order.inverse_N,
        0 if order is None else order.choices,
    )
    return outputs_ND


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weights_N: Tensor,
        gate_up_EFD: Tensor,
        down_EDF: Tensor,
        gate_up_copy: Tensor,
        down_copy: Tensor,
        counts_E: Tensor,
        order_N: Tensor | None,
        inverse_N: Tensor | None,
        choices: int,
    ) -> Tensor:
        order = None if order_N is None or inverse_N is None else ExpertOrder(order_N, inverse_N, counts_E, choices)
        rows_ND = rows if order is None else gather_copies(rows, order)
        products_NF = grouped_linear(rows_ND, gate_up_copy, counts_E)
        weighted_NF = swiglu(products_NF) * weights_N.to(rows.dtype).unsqueeze(1)
        ctx.save_for_backward(
            rows,
            weights_N,
            products_NF,
            gate_up_copy,
            down_copy,
            counts_E,
            *((order_N, inverse_N) if order is not None else ()),
        )
        ctx.choices, ctx.types = choices, (gate_up_EFD.dtype, down_EDF.dtype)
        ctx.weights = kept(gate_up_EFD), kept(down_EDF)
        outputs_ND = grouped_linear(weighted_NF, down_copy, counts_E)
        return outputs_ND if order is None else sum_copies(outputs_ND, order)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights_N, products_NF, gate_up_copy, down_copy, counts_E, *places = ctx.saved_tensors
        order = ExpertOrder(places[0], places[1], counts_E, ctx.choices) if places else None
        slope_ND = slopes[0] if order is None else gather_copies(slopes[0], order)
        weight_N1 = weights_N.to(slope_ND.dtype).unsqueeze(1)
        inner_NF = swiglu(products_NF)
        slope_NF = grouped_data_gradient(slope_ND, down_copy, counts_E)
        weights_gradient_N = (inner_NF.to(weights_N.dtype) * slope_NF.to(weights_N.dtype)).sum(1)

        def down() -> Tensor:
            return grouped_weight_gradient(slope_ND, inner_NF * weight_N1, counts_E).to(ctx.types[1])

        def gate_up() -> Tensor:
            rows_ND = rows if order is None else gather_copies(rows, order)
            return grouped_weight_gradient(products_gradient_NF, rows_ND, counts_E).to(ctx.types[0])

        down_gradient = weight_gradient(ctx.weights[1], down)
        products_gradient_NF = swiglu_gradient(products_NF, slope_NF * weight_N1)
        gate_up_gradient = weight_gradient(ctx.weights[0], gate_up)
        gradient = grouped_data_gradient(products_gradient_NF, gate_up_copy, counts_E)
        if order is not None:
            gradient = sum_copies(gradient, order)
        return (gradient, weights_gradient_N, gate_up_gradient, down_gradient, *[None] * 6)
