"""SwiGLU and its gradient with FP8 tiles going in and out, one kernel each, for CUDA. Meaning: `sapience.ops.fp8_swiglu`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.fp8_tiles_kernel import store_rows

_TYPE = torch.float8_e4m3fn
_ROWS = 16
"""Of a program."""


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
    _forward[(width // 128, rows // _ROWS)](
        products_MF, weights_M, *made, rows, width, weights_M is not None, _ROWS, num_warps=4
    )
    return made


@forward.register_fake
def _(products_MF: Tensor, weights_M: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, width = products_MF.shape[0], products_MF.shape[1] // 2
    return *_tiles(products_MF, rows, width), *_tiles(products_MF, rows, 2 * width)


@torch.library.custom_op("sapience::fp8_swiglu_gradient", mutates_args=())
def backward(
    elements: Tensor, scales: Tensor, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Elements and scales of the gradient [M, 2F] and of the output [M, F]; parts [F/128, M] of the weights' gradient."""
    slope_MF = slope_MF.contiguous()
    rows, width = slope_MF.shape
    made = _gradients(slope_MF)
    _backward[(width // 128, rows // _ROWS)](
        elements, scales, slope_MF, weights_M, *made, rows, width, weights_M is not None, _ROWS, num_warps=4
    )
    return made


@backward.register_fake
def _(
    elements: Tensor, scales: Tensor, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(slope_MF)


def _gradients(slope_MF: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, width = slope_MF.shape
    parts = torch.empty((width // 128, rows), dtype=torch.float32, device=slope_MF.device)
    return *_tiles(slope_MF, rows, 2 * width), *_tiles(slope_MF, rows, width), parts


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    products, weights, inner, inner_scales, kept, kept_scales, rows, width, WEIGHTED: tl.constexpr, ROWS: tl.constexpr
):
    across, down = tl.program_id(0), tl.program_id(1)
    row = down * ROWS + tl.arange(0, ROWS)
    column = across * 128 + tl.arange(0, 128)
    place = row[:, None].to(tl.int64) * (2 * width) + column[None, :]
    gate = tl.load(products + place).to(tl.float32)
    up = tl.load(products + place + width).to(tl.float32)
    store_rows(gate, kept, kept_scales, row, across, 2 * width, rows, ROWS)
    store_rows(up, kept, kept_scales, row, across + width // 128, 2 * width, rows, ROWS)
    result = gate * tl.sigmoid(gate) * up
    if WEIGHTED:
        result = result * tl.load(weights + row)[:, None]
    store_rows(result, inner, inner_scales, row, across, width, rows, ROWS)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    elements,
    scales,
    slopes,
    weights,
    gradient,
    gradient_scales,
    inner,
    inner_scales,
    parts,
    rows,
    width,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rows only, which are turned afterwards: as a tile of 128 x 128 the three results do not fit into registers."""
    across, down = tl.program_id(0), tl.program_id(1)
    row = down * ROWS + tl.arange(0, ROWS)
    column = across * 128 + tl.arange(0, 128)
    up_block = across + width // 128
    place = row[:, None].to(tl.int64) * (2 * width) + column[None, :]
    gate = tl.load(elements + place).to(tl.float32) * tl.load(scales + across.to(tl.int64) * rows + row)[:, None]
    up = tl.load(elements + place + width).to(tl.float32)
    up *= tl.load(scales + up_block.to(tl.int64) * rows + row)[:, None]
    slope = tl.load(slopes + row[:, None].to(tl.int64) * width + column[None, :]).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = gate * share
    result = silu * up
    tl.store(parts + across.to(tl.int64) * rows + row, tl.sum(result * slope, 1))
    if WEIGHTED:
        weight = tl.load(weights + row)[:, None]
        result *= weight
        slope *= weight
    store_rows(result, inner, inner_scales, row, across, width, rows, ROWS)
    store_rows(slope * silu, gradient, gradient_scales, row, up_block, 2 * width, rows, ROWS)
    slope *= up * (share + silu * (1 - share))
    store_rows(slope, gradient, gradient_scales, row, across, 2 * width, rows, ROWS)
