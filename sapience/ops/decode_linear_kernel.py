"""Products of a few rows with weights in float32, bfloat16 or FP8 blocks of 128 x 128, for CUDA; sums are float32.

How such kernels are started: `sapience.ops.decode_launch`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.decode_launch import rows_together, start, wait

_DEPTH = 128
"""Numbers of a row that are multiplied at a time; FP8's blocks are as deep."""
_SHARED_BYTES = 96 << 10
"""For the tiles that a program has under way: two programs fit on a multiprocessor."""


@dataclass(frozen=True)
class Matrix:
    """[J, K], or a stack of them, as products read it."""

    elements: Tensor
    """Rows may be longer than K, where FP8's blocks are filled up."""
    scales: Tensor | None = None
    """Of FP8's blocks: [J/128, K/128 or more], or a stack."""
    plane: int = 0
    """Rows from gate to up, where both are in one matrix."""

    @property
    def some_scales(self) -> Tensor:
        """The scales, or something in their place that nobody reads."""
        return self.elements if self.scales is None else self.scales

    @property
    def row(self) -> int:
        """Elements from one row to the next."""
        return self.elements.stride(-2)

    @property
    def scales_row(self) -> int:
        """Scales from one row of blocks to the next."""
        return 0 if self.scales is None else self.scales.stride(-2)


@dataclass(frozen=True)
class Routed:
    """Who goes to which expert."""

    experts: Tensor
    """[N, K] in int32; -1 for a row that is nobody's."""
    weights: Tensor
    """[N, K] in float32."""
    lists: Tensor | None
    """[E, 1 + N] in int32: how many go to an expert, and which of the N · K; None for so few that nobody has to look."""


def linear(x_NK: Tensor, matrix: Matrix, outputs: int, residual_NJ: Tensor | None = None, wide: bool = False) -> Tensor:
    """x matrix^T + residual: [N, J], in float32 if `wide`."""
    out = x_NK.new_empty((x_NK.shape[0], outputs), dtype=torch.float32 if wide else x_NK.dtype)
    _launch(x_NK, matrix, out, residual=residual_NJ)
    return out


def linear_pair(x_NK: Tensor, first: Matrix, second: Matrix, outputs: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x first^T and x second^T."""
    out, more = (x_NK.new_empty((x_NK.shape[0], width)) for width in outputs)
    _launch(x_NK, first, out, second=second, more=more)
    return out, more


def gated(x_NK: Tensor, matrix: Matrix, inner: int) -> Tensor:
    """silu(gate x) · up x: [N, F]."""
    out = x_NK.new_empty((x_NK.shape[0], inner))
    _launch(x_NK, matrix, out, gated=True)
    return out


def experts_gated(x_NK: Tensor, matrices: Matrix, shared: Matrix | None, inner: int, routed: Routed) -> Tensor:
    """`gated` by every expert that a row goes to: [N · choices, F].

    The shared experts are those behind the others, F rows of the shared matrix's gate and up each.
    """
    choices = routed.experts.shape[1]
    out = x_NK.new_empty((routed.experts.numel(), inner))
    rows = 0 if shared is None else inner
    _launch(x_NK, matrices, out, gated=True, routed=routed, copies=choices, second=shared, rows_apart=rows)
    return out


def experts_linear(x_CK: Tensor, matrices: Matrix, shared: Matrix | None, outputs: int, routed: Routed) -> Tensor:
    """What `experts_gated` made, through every expert's second matrix, times the gate's weight: [N · choices, J].

    Of the shared matrix F columns belong to each of the shared experts.
    """
    out = x_CK.new_empty((x_CK.shape[0], outputs))
    _launch(x_CK, matrices, out, routed=routed, weighted=True, second=shared)
    return out


def _launch(
    x: Tensor,
    matrix: Matrix,
    out: Tensor,
    *,
    gated: bool = False,
    residual: Tensor | None = None,
    routed: Routed | None = None,
    copies: int = 1,
    weighted: bool = False,
    second: Matrix | None = None,
    more: Tensor | None = None,
    rows_apart: int = 0,
) -> None:
    """`rows_apart`: from one shared expert to the next; without, they are as many columns apart as x is wide."""
    count, outputs = out.shape
    lists = None if routed is None else routed.lists
    # An expert has few of the rows, a shared one all of them.
    rows = rows_together(count if routed is None else 1 if lists is None else lists.shape[1] - 1)
    across = 16 if outputs <= 2048 and routed is None else 32 if outputs <= 8192 else 64
    other = matrix if second is None else second
    width = 0 if more is None else more.shape[1]
    steps = triton.cdiv(x.shape[1], _DEPTH)
    stage = _DEPTH * (rows * x.element_size() + (1 + gated) * across * matrix.elements.element_size())
    stack = matrix.elements.shape[0] if routed is not None else 0
    down = triton.cdiv(count, rows) if routed is None else count if lists is None else lists.shape[0]
    apart, scales_apart = x.shape[1], x.shape[1] // 128
    if rows_apart:
        apart, scales_apart = rows_apart * other.row, rows_apart // 128 * other.scales_row
    start(
        _linear,
        (triton.cdiv(outputs, across) + triton.cdiv(width, across), down),
        x,
        matrix.elements,
        matrix.some_scales,
        other.elements,
        other.some_scales,
        x if residual is None else residual,
        x if routed is None else routed.experts if lists is None else lists,
        x if routed is None else routed.weights,
        out,
        out if more is None else more,
        count,
        stack,
        matrix.elements.stride(0) if stack else 0,
        matrix.row,
        matrix.some_scales.stride(0) if stack else 0,
        matrix.scales_row,
        matrix.plane,
        apart,
        other.row,
        scales_apart,
        other.scales_row,
        other.plane,
        0 if lists is None else lists.shape[1],
        K=x.shape[1],
        J=outputs,
        MORE=width,
        GATED=gated,
        SCALED=matrix.scales is not None,
        RESIDUAL=residual is not None,
        EXPERTS=0 if routed is None else 1 if lists is None else 2,
        COPIES=copies,
        WEIGHTED=weighted,
        ROWS=rows,
        ACROSS=across,
        DEPTH=_DEPTH,
        num_warps=4,
        num_stages=max(2, min(steps, 8, _SHARED_BYTES // stage)),
    )


@triton.jit
def _step(x, weight, k, there, K: tl.constexpr, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """x times the next columns of the weight's rows."""
    tile = tl.load(weight + k, mask=there if EVEN else there & (k < K), other=0.0)
    return tl.dot(x, tl.trans(tile.to(x.dtype)), input_precision="ieee")


@triton.jit(do_not_specialize=["count"])
def _linear(  # type: ignore[no-untyped-def]
    x,
    weight,
    scales,
    second,
    second_scales,
    residual,
    chosen,
    factors,
    out,
    more,
    count,
    experts,
    matrix_stride,
    row_stride,
    scales_matrix_stride,
    scales_stride,
    plane,
    second_stride,
    second_row_stride,
    second_scales_step,
    second_scales_stride,
    second_plane,
    list_stride,
    K: tl.constexpr,
    J: tl.constexpr,
    MORE: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EXPERTS: tl.constexpr,
    COPIES: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
    ACROSS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    EVEN: tl.constexpr = K % DEPTH == 0
    STEPS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    across, down = tl.program_id(0), tl.program_id(1)
    width = J
    if MORE and across >= (J + ACROSS - 1) // ACROSS:
        across -= (J + ACROSS - 1) // ACROSS
        width = MORE
        weight, scales, out = second, second_scales, more
        row_stride, scales_stride = second_row_stride, second_scales_stride
    column = across * ACROSS + tl.arange(0, ACROSS)
    there = (column < width)[:, None]
    begin, end, expert = down * ROWS, down * ROWS + 1, down
    wait()
    if EXPERTS == 1:
        expert = tl.load(chosen + down)
        begin, end = down, tl.where(expert >= 0, down + 1, down)
        expert = tl.maximum(expert, 0)
    if EXPERTS == 2:
        chosen += down * list_stride
        begin, end = 0, tl.load(chosen)
    if EXPERTS and expert < experts:
        weight += expert.to(tl.int64) * matrix_stride
        scales += expert.to(tl.int64) * scales_matrix_stride
    elif EXPERTS:
        weight = second + (expert - experts) * second_stride
        scales = second_scales + (expert - experts) * second_scales_step
        row_stride, scales_stride, plane = second_row_stride, second_scales_stride, second_plane
    weight += column[:, None].to(tl.int64) * row_stride
    scale = scales + across * ACROSS // 128 * scales_stride
    upper_scale = scale + plane // 128 * scales_stride
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        live = row < (end if EXPERTS else count)
        if EXPERTS == 2:
            row = tl.load(chosen + 1 + row, mask=live, other=0)
        source = x + (row // COPIES)[:, None].to(tl.int64) * K
        total = tl.zeros((ROWS, ACROSS), tl.float32)
        upper = tl.zeros((ROWS, ACROSS), tl.float32)
        factor, upper_factor = 1.0, 1.0
        if SCALED:
            factor, upper_factor = tl.load(scale), tl.load(upper_scale)
        for step in range(STEPS):
            k = (step * DEPTH + tl.arange(0, DEPTH))[None, :]
            tile = tl.load(source + k, mask=live[:, None] if EVEN else live[:, None] & (k < K), other=0.0)
            total += _step(tile, weight, k, there, K, EVEN) * factor
            if GATED:
                upper += _step(tile, weight + plane * row_stride, k, there, K, EVEN) * upper_factor
            if SCALED:
                after = tl.minimum(step + 1, STEPS - 1)
                factor, upper_factor = tl.load(scale + after), tl.load(upper_scale + after)
        if GATED:
            total = total * tl.sigmoid(total) * upper
        if WEIGHTED:
            total *= tl.load(factors + row, mask=live, other=0.0)[:, None]
        inside = live[:, None] & (column < width)[None, :]
        target = row[:, None].to(tl.int64) * width + column[None, :]
        if RESIDUAL:
            total += tl.load(residual + target, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + target, total, mask=inside)
