"""Linear layer, SwiGLU feed-forward and routed experts computed in FP8, differentiable (DeepSeek-V3 report, section 3.3).

All three products of a matrix (forward, input's gradient, weight's gradient) take FP8 tiles and add up in float32; what is
kept for the backward pass is in FP8 too. Results and the inputs' gradients are bfloat16, the weights' gradients float32.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sapience.ops.fp8_products import (
    Groups,
    grouped_product,
    grouped_weight_product,
    groups_of,
    product,
    weight_product,
)
from sapience.ops.fp8_swiglu import swiglu_gradient_tiles, swiglu_tiles
from sapience.ops.fp8_tiles import Tiles, WeightBlocks, gather, quantize_both, quantize_rows, turn
from sapience.ops.permutation import ExpertOrder, sum_copies
from sapience.ops.put_off import kept as put_off_for
from sapience.ops.put_off import weight_gradient


def fp8_linear(x: Tensor, weight_JK: Tensor, blocks: WeightBlocks) -> Tensor:
    """x weight^T, […, J] in bfloat16; `blocks` are the weight's (a stack of one)."""
    y: Tensor = _Linear.apply(x, weight_JK, *blocks.parts)
    return y


def fp8_two_linears(
    x: Tensor,
    first_JK: Tensor,
    first: WeightBlocks,
    second_JK: Tensor,
    second: WeightBlocks,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """`fp8_linear` by two matrices: x is quantized, and its tiles are turned, once for both.

    Here and below `tiles` are those of x's rows, where somebody has made them; then x is not read.
    """
    tiles = _tiles_of(x) if tiles is None else tiles
    y, z = _TwoLinears.apply(x, first_JK, second_JK, *first.parts, *second.parts, tiles.elements, tiles.scales)
    return y, z


def fp8_feed_forward(
    x: Tensor,
    gate_up_FD: Tensor,
    down_DF: Tensor,
    gate_up: WeightBlocks,
    down: WeightBlocks,
    tiles: Tiles | None = None,
) -> Tensor:
    """down(silu(gate x) · up x), […, D] in bfloat16; the blocks of gate and up were made as two planes."""
    tiles = _tiles_of(x) if tiles is None else tiles
    y: Tensor = _FeedForward.apply(x, gate_up_FD, down_DF, *gate_up.parts, *down.parts, tiles.elements, tiles.scales)
    return y


def fp8_experts(
    tokens_TD: Tensor,
    weights_N: Tensor,
    gate_up_EFD: Tensor,
    down_EDF: Tensor,
    gate_up: WeightBlocks,
    down: WeightBlocks,
    order: ExpertOrder,
    tiles: Tiles | None = None,
) -> Tensor:
    """The sum over each token's experts of weight · expert(token), [T, D] in bfloat16.

    The order's groups are multiples of 128. Tokens travel to their experts in FP8, and so do the gradients.
    """
    tiles = _tiles_of(tokens_TD) if tiles is None else tiles
    mixed: Tensor = _Experts.apply(
        tokens_TD,
        weights_N,
        gate_up_EFD,
        down_EDF,
        *gate_up.parts,
        *down.parts,
        order.order_N,
        order.inverse_N,
        order.counts_E,
        order.choices,
        tiles.elements,
        tiles.scales,
    )
    return mixed


def _tiles_of(x: Tensor) -> Tiles:
    return quantize_rows(x.detach().reshape(-1, x.shape[-1]))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_JK: Tensor, elements: Tensor, scales: Tensor, turned: Tensor, turned_scales: Tensor
    ) -> Tensor:
        tiles = quantize_rows(x.reshape(-1, x.shape[-1]))
        ctx.save_for_backward(tiles.elements, tiles.scales, turned, turned_scales)
        ctx.shape, ctx.outputs, ctx.weight = x.shape, weight_JK.shape[0], put_off_for(weight_JK)
        y = product(tiles, elements[0], scales[0])[: x.numel() // x.shape[-1], : ctx.outputs]
        return y.reshape(*x.shape[:-1], ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        elements, scales, turned, turned_scales = ctx.saved_tensors
        slope, slope_columns = quantize_both(slopes[0].reshape(-1, ctx.outputs))
        count, inputs = slopes[0].numel() // ctx.outputs, ctx.shape[-1]
        gradient = product(slope, turned[0], turned_scales[0])[:count, :inputs].reshape(ctx.shape)

        def weight() -> Tensor:
            return weight_product(slope_columns, turn(Tiles(elements, scales)))[: ctx.outputs, :inputs]

        return gradient, weight_gradient(ctx.weight, weight), None, None, None, None


class _TwoLinears(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first_JK: Tensor,
        second_JK: Tensor,
        first: Tensor,
        first_scales: Tensor,
        first_turned: Tensor,
        first_turned_scales: Tensor,
        second: Tensor,
        second_scales: Tensor,
        second_turned: Tensor,
        second_turned_scales: Tensor,
        elements: Tensor,
        scales: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(elements, scales)
        ctx.save_for_backward(elements, scales, first_turned, first_turned_scales, second_turned, second_turned_scales)
        ctx.shape, ctx.outputs = x.shape, (first_JK.shape[0], second_JK.shape[0])
        ctx.weights = put_off_for(first_JK), put_off_for(second_JK)
        count = x.numel() // x.shape[-1]
        y = product(tiles, first[0], first_scales[0])[:count, : ctx.outputs[0]]
        z = product(tiles, second[0], second_scales[0])[:count, : ctx.outputs[1]]
        return y.reshape(*x.shape[:-1], -1), z.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        elements, scales, *turned = ctx.saved_tensors
        inputs = ctx.shape[-1]
        gradients, columns = [], []
        for i, outputs in enumerate(ctx.outputs):
            slope, slope_columns = quantize_both(slopes[i].reshape(-1, outputs))
            gradients.append(product(slope, turned[2 * i][0], turned[2 * i + 1][0]))
            columns.append(slope_columns)
        rows = turn(Tiles(elements, scales))

        def weight(i: int) -> Tensor:
            return weight_product(columns[i], rows)[: ctx.outputs[i], :inputs]

        weights = [weight_gradient(kept, partial(weight, i)) for i, kept in enumerate(ctx.weights)]
        count = slopes[0].numel() // ctx.outputs[0]
        gradient = (gradients[0] + gradients[1])[:count, :inputs].reshape(ctx.shape)
        return gradient, *weights, *[None] * 10


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate_up_FD: Tensor,
        down_DF: Tensor,
        gate_up: Tensor,
        gate_up_scales: Tensor,
        gate_up_turned: Tensor,
        gate_up_turned_scales: Tensor,
        down: Tensor,
        down_scales: Tensor,
        down_turned: Tensor,
        down_turned_scales: Tensor,
        elements: Tensor,
        scales: Tensor,
    ) -> Tensor:
        inner, kept = swiglu_tiles(product(Tiles(elements, scales), gate_up[0], gate_up_scales[0]), None)
        ctx.save_for_backward(
            elements,
            scales,
            kept.elements,
            kept.scales,
            gate_up_turned,
            gate_up_turned_scales,
            down_turned,
            down_turned_scales,
        )
        ctx.shape, ctx.inner = x.shape, down_DF.shape[1]
        ctx.weights = put_off_for(gate_up_FD), put_off_for(down_DF)
        y = product(inner, down[0], down_scales[0])[: x.numel() // x.shape[-1], : x.shape[-1]]
        return y.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        elements, scales, kept, kept_scales, gate_up, gate_up_scales, down, down_scales = ctx.saved_tensors
        width = ctx.shape[-1]
        count = slopes[0].numel() // width
        slope, slope_columns = quantize_both(slopes[0].reshape(-1, width))
        inner_slope = product(slope, down[0], down_scales[0])
        gradient, gradient_columns, inner, _ = swiglu_gradient_tiles(Tiles(kept, kept_scales), inner_slope, None)
        x_gradient = product(gradient, gate_up[0], gate_up_scales[0])[:count, :width].reshape(ctx.shape)

        def down_gradient() -> Tensor:
            return weight_product(slope_columns, inner)[:width, : ctx.inner]

        def gate_up_gradient() -> Tensor:
            return _planes(weight_product(gradient_columns, turn(Tiles(elements, scales))), ctx.inner, width)

        down_made = weight_gradient(ctx.weights[1], down_gradient)
        return x_gradient, weight_gradient(ctx.weights[0], gate_up_gradient), down_made, *[None] * 10


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens_TD: Tensor,
        weights_N: Tensor,
        gate_up_EFD: Tensor,
        down_EDF: Tensor,
        gate_up: Tensor,
        gate_up_scales: Tensor,
        gate_up_turned: Tensor,
        gate_up_turned_scales: Tensor,
        down: Tensor,
        down_scales: Tensor,
        down_turned: Tensor,
        down_turned_scales: Tensor,
        order_N: Tensor,
        inverse_N: Tensor,
        counts_E: Tensor,
        choices: int,
        elements: Tensor,
        scales: Tensor,
    ) -> Tensor:
        order = ExpertOrder(order_N, inverse_N, counts_E, choices)
        groups = groups_of(counts_E, order_N.shape[0])
        products = grouped_product(gather(Tiles(elements, scales), order.tokens_N), gate_up, gate_up_scales, groups)
        inner, kept = swiglu_tiles(products, weights_N)
        outputs = grouped_product(inner, down, down_scales, groups)
        ctx.save_for_backward(
            elements,
            scales,
            kept.elements,
            kept.scales,
            weights_N,
            gate_up_turned,
            gate_up_turned_scales,
            down_turned,
            down_turned_scales,
            order_N,
            inverse_N,
            counts_E,
            groups.matrix_B,
            groups.first_E,
        )
        ctx.choices, ctx.shape, ctx.inner = choices, tokens_TD.shape, down_EDF.shape[2]
        ctx.weights = put_off_for(gate_up_EFD), put_off_for(down_EDF)
        return sum_copies(outputs, order)[:, : ctx.shape[1]]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (
            elements,
            scales,
            kept,
            kept_scales,
            weights_N,
            gate_up,
            gate_up_scales,
            down,
            down_scales,
            order_N,
            inverse_N,
            counts_E,
            matrix_B,
            first_E,
        ) = ctx.saved_tensors
        order = ExpertOrder(order_N, inverse_N, counts_E, ctx.choices)
        groups = Groups(matrix_B, first_E)
        width = ctx.shape[1]
        slope = quantize_rows(slopes[0])
        inner_slope = grouped_product(gather(slope, order.tokens_N), down, down_scales, groups)
        gradient, gradient_columns, inner, weights_gradient = swiglu_gradient_tiles(
            Tiles(kept, kept_scales), inner_slope, weights_N
        )
        rows_gradient = grouped_product(gradient, gate_up, gate_up_scales, groups)
        tokens_gradient = sum_copies(rows_gradient, order)[:, :width]

        def down_gradient() -> Tensor:
            turned = turn(slope, order.tokens_N)
            return grouped_weight_product(turned, inner, groups)[:, :width, : ctx.inner]

        def gate_up_gradient() -> Tensor:
            turned = turn(Tiles(elements, scales), order.tokens_N)
            return _planes(grouped_weight_product(gradient_columns, turned, groups), ctx.inner, width)

        down_made = weight_gradient(ctx.weights[1], down_gradient)
        gate_up_made = weight_gradient(ctx.weights[0], gate_up_gradient)
        return tokens_gradient, weights_gradient.to(weights_N.dtype), gate_up_made, down_made, *[None] * 14


def _planes(gradient: Tensor, inner: int, width: int) -> Tensor:
    """Gate's and up's part of [… 2F', D'] without what filled them up: [… 2F, D]."""
    if gradient.shape[-2] == 2 * inner and gradient.shape[-1] == width:
        return gradient
    return gradient.unflatten(-2, (2, -1))[..., :inner, :width].flatten(-3, -2)
