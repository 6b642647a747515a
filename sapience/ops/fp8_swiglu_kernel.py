"""SwiGLU and its gradient with FP8 tiles going in and out, one kernel each, for CUDA. Meaning: `sapience.ops.fp8_swiglu`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.fp8_tiles_kernel import packed, scale_of, store_rows

_TYPE = torch.float8_e4m3fn


def _tiles(like: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return (
        torch.empty((rows, columns), dtype=_TYPE, device=like.device),
        torch.empty((columns // 128, rows), dtype=torch.float32, device=like.device),
    )


@torch.library.custom_op("sapience::fp8_swiglu", mutates_args=())
def forward(products_MF: Tensor, weights_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[M, 2F]: elements and scales of the output [M, F] and of the input."""
    products_MF = products_MF.contiguous()
    rows, width = products_MF.shape[0], products_MF.shape[1] // 2
    made = (*_tiles(products_MF, rows, width), *_tiles(products_MF, rows, 2 * width))
    _forward[(width // 128, rows // 128)](
        products_MF, weights_M, *made, rows, width, weights_M is not None, num_warps=8
    )
    return made


@forward.register_fake
def _(products_MF: Tensor, weights_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = products_MF.shape[0], products_MF.shape[1] // 2
    return *_tiles(products_MF, rows, width), *_tiles(products_MF, rows, 2 * width)


@torch.library.custom_op("sapience::fp8_swiglu_gradient", mutates_args=())
def backward(
    elements: Tensor, scales: Tensor, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Elements and scales of the gradient [M, 2F], of the same transposed, of the output transposed; parts [F/128, M] of the
    weights' gradient."""
    slope_MF = slope_MF.contiguous()
    rows, width = slope_MF.shape
    made = _gradients(slope_MF)
    _backward[(width // 128, rows // 128)](
        elements, scales, slope_MF, weights_M, *made, rows, width, weights_M is not None, PART=32, num_warps=4
    )
    return made


@backward.register_fake
def _(
    elements: Tensor, scales: Tensor, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(slope_MF)


def _gradients(slope_MF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, width = slope_MF.shape
    parts = torch.empty((width // 128, rows), dtype=torch.float32, device=slope_MF.device)
    return (
        *_tiles(slope_MF, rows, 2 * width),
        *_tiles(slope_MF, 2 * width, rows),
        *_tiles(slope_MF, width, rows),
        parts,
    )


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    products, weights, inner, inner_scales, kept, kept_scales, rows, width, WEIGHTED: tl.constexpr
):
    across, down = tl.program_id(0), tl.program_id(1)
    row = down * 128 + tl.arange(0, 128)
    column = across * 128 + tl.arange(0, 128)
    place = row[:, None].to(tl.int64) * (2 * width) + column[None, :]
    gate = tl.load(products + place).to(tl.float32)
    up = tl.load(products + place + width).to(tl.float32)
    store_rows(gate, kept, kept_scales, row, across, 2 * width, rows, 128)
    store_rows(up, kept, kept_scales, row, across + width // 128, 2 * width, rows, 128)
    result = gate * tl.sigmoid(gate) * up
    if WEIGHTED:
        result = result * tl.load(weights + row)[:, None]
    store_rows(result, inner, inner_scales, row, across, width, rows, 128)


@triton.jit
def _part(  # type: ignore[no-untyped-def]
    elements, scales, slopes, weights, row, column, across, rows, width, WEIGHTED: tl.constexpr
):
    """A few rows of a tile: output, its product with the slope, slopes of gate and up; output and slopes weighted."""
    place = row[:, None].to(tl.int64) * (2 * width) + column[None, :]
    gate = tl.load(elements + place).to(tl.float32) * tl.load(scales + across.to(tl.int64) * rows + row)[:, None]
    up_block = (across + width // 128).to(tl.int64)
    up = tl.load(elements + place + width).to(tl.float32) * tl.load(scales + up_block * rows + row)[:, None]
    slope = tl.load(slopes + row[:, None].to(tl.int64) * width + column[None, :]).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = gate * share
    result = silu * up
    weights_gradient = tl.sum(result * slope, 1)
    if WEIGHTED:
        weight = tl.load(weights + row)[:, None]
        slope = slope * weight
        result = result * weight
    return result, weights_gradient, slope * up * (share + silu * (1 - share)), slope * silu


@triton.jit
def store_part(part, turned, column, start, rows, PART: tl.constexpr):  # type: ignore[no-untyped-def]
    """[PART, 128] in float32, scaled already, transposed into elements [columns, rows] from place `start` of a row on."""
    words = turned.to(tl.pointer_type(tl.int32), bitcast=True)
    word = start // 4 + tl.arange(0, PART // 4)
    tl.store(words + column[:, None].to(tl.int64) * (rows // 4) + word[None, :], packed(tl.trans(part), 128, PART))


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    elements,
    scales,
    slopes,
    weights,
    gradient,
    gradient_scales,
    turned,
    turned_scales,
    inner,
    inner_scales,
    parts,
    rows,
    width,
    WEIGHTED: tl.constexpr,
    PART: tl.constexpr,
):
    """A tile of 128 x 128 in parts of rows, so that it fits into registers: once for the columns' scales, once to write."""
    across, down = tl.program_id(0), tl.program_id(1)
    column = across * 128 + tl.arange(0, 128)
    inner_largest = tl.zeros((128,), tl.float32)
    gate_largest = tl.zeros((128,), tl.float32)
    up_largest = tl.zeros((128,), tl.float32)
    for start in range(0, 128, PART):
        row = down * 128 + start + tl.arange(0, PART)
        result, _, gate, up = _part(elements, scales, slopes, weights, row, column, across, rows, width, WEIGHTED)
        inner_largest = tl.maximum(inner_largest, tl.max(tl.abs(result), 0))
        gate_largest = tl.maximum(gate_largest, tl.max(tl.abs(gate), 0))
        up_largest = tl.maximum(up_largest, tl.max(tl.abs(up), 0))
    inner_scale, inner_inverse = scale_of(inner_largest)
    gate_scale, gate_inverse = scale_of(gate_largest)
    up_scale, up_inverse = scale_of(up_largest)
    tl.store(inner_scales + down.to(tl.int64) * width + column, inner_scale)
    tl.store(turned_scales + down.to(tl.int64) * (2 * width) + column, gate_scale)
    tl.store(turned_scales + down.to(tl.int64) * (2 * width) + column + width, up_scale)
    for start in range(0, 128, PART):
        row = down * 128 + start + tl.arange(0, PART)
        result, weights_gradient, gate, up = _part(
            elements, scales, slopes, weights, row, column, across, rows, width, WEIGHTED
        )
        tl.store(parts + across.to(tl.int64) * rows + row, weights_gradient)
        store_part(result * inner_inverse[None, :], inner, column, down * 128 + start, rows, PART)
        store_part(gate * gate_inverse[None, :], turned, column, down * 128 + start, rows, PART)
        store_part(up * up_inverse[None, :], turned, column + width, down * 128 + start, rows, PART)
        store_rows(gate, gradient, gradient_scales, row, across, 2 * width, rows, PART)
        store_rows(up, gradient, gradient_scales, row, across + width // 128, 2 * width, rows, PART)
