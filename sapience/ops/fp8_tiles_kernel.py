"""FP8 tiles made, turned and gathered by one kernel each, for CUDA. Meaning and layouts: `sapience.ops.fp8_tiles`.

A program takes a tile of 128 x 128. Each op is opaque to `torch.compile` and has no gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.fp8_blocks import rounded_up

_TYPE = torch.float8_e4m3fn


def empty_tiles(x: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Elements [rows, columns] and scales beside x, not written yet."""
    return (
        torch.empty((rows, columns), dtype=_TYPE, device=x.device),
        torch.empty((columns // 128, rows), dtype=torch.float32, device=x.device),
    )


@torch.library.custom_op("sapience::fp8_quantize_rows", mutates_args=())
def quantize_rows(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] as elements [M', K'] and scales [K'/128, M']."""
    rows, columns = x_MK.shape
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    elements, scales = empty_tiles(x_MK, rounded_up(rows), rounded_up(columns))
    grid = (rounded_up(columns) // 128, rounded_up(rows) // 128)
    _quantize[grid](
        x_MK,
        elements,
        scales,
        elements,
        scales,
        rows,
        columns,
        *elements.shape,
        x_MK.stride(0),
        True,
        False,
        num_warps=8,
    )
    return elements, scales


@quantize_rows.register_fake
def _(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    return empty_tiles(x_MK, rounded_up(x_MK.shape[0]), rounded_up(x_MK.shape[1]))


@torch.library.custom_op("sapience::fp8_quantize_normed", mutates_args=())
def quantize_normed(x_MK: Tensor, weight_K: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of the rows over their root mean square, times the weight, rounded to x's type first."""
    rows, columns = x_MK.shape
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    elements, scales = empty_tiles(x_MK, rounded_up(rows), rounded_up(columns))
    span = max(128, triton.next_power_of_2(columns))
    lines = max(1, 8192 // span)
    _quantize_normed[(rounded_up(rows) // lines,)](
        x_MK, weight_K, elements, scales, rows, columns, *elements.shape, x_MK.stride(0), eps, lines, span, num_warps=8
    )
    return elements, scales


@quantize_normed.register_fake
def _(x_MK: Tensor, weight_K: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return empty_tiles(x_MK, rounded_up(x_MK.shape[0]), rounded_up(x_MK.shape[1]))


@torch.library.custom_op("sapience::fp8_quantize_both", mutates_args=())
def quantize_both(x_MK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[M, K] as elements [M', K'] and scales, and as elements [K', M'] and scales."""
    rows, columns = x_MK.shape
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    elements, scales = empty_tiles(x_MK, rounded_up(rows), rounded_up(columns))
    turned, turned_scales = empty_tiles(x_MK, rounded_up(columns), rounded_up(rows))
    grid = (rounded_up(columns) // 128, rounded_up(rows) // 128)
    _quantize[grid](
        x_MK,
        elements,
        scales,
        turned,
        turned_scales,
        rows,
        columns,
        *elements.shape,
        x_MK.stride(0),
        True,
        True,
        num_warps=8,
    )
    return elements, scales, turned, turned_scales


@quantize_both.register_fake
def _(x_MK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = rounded_up(x_MK.shape[0]), rounded_up(x_MK.shape[1])
    return *empty_tiles(x_MK, rows, columns), *empty_tiles(x_MK, columns, rows)


@torch.library.custom_op("sapience::fp8_turn", mutates_args=())
def turn(elements: Tensor, scales: Tensor, rows_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Elements [M, K] as elements [K, N] and scales [N/128, K] of the rows that `rows_N` names."""
    rows, columns = elements.shape
    count = rows if rows_N is None else rows_N.shape[0]
    turned, turned_scales = empty_tiles(elements, columns, count)
    _turn[(count // 128, columns // 128)](
        elements, scales, rows_N, turned, turned_scales, rows, columns, count, rows_N is not None, num_warps=4
    )
    return turned, turned_scales


@turn.register_fake
def _(elements: Tensor, scales: Tensor, rows_N: Tensor | None) -> tuple[Tensor, Tensor]:
    return empty_tiles(elements, elements.shape[1], elements.shape[0] if rows_N is None else rows_N.shape[0])


@torch.library.custom_op("sapience::fp8_gather", mutates_args=())
def gather(elements: Tensor, scales: Tensor, rows_N: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that `rows_N` names, zeros where it names none."""
    rows, columns = elements.shape
    count = rows_N.shape[0]
    out, out_scales = empty_tiles(elements, count, columns)
    _gather[(triton.cdiv(columns, 1024), count // 32)](
        elements, scales, rows_N, out, out_scales, rows, columns, count, num_warps=8
    )
    return out, out_scales


@gather.register_fake
def _(elements: Tensor, scales: Tensor, rows_N: Tensor) -> tuple[Tensor, Tensor]:
    return empty_tiles(elements, rows_N.shape[0], elements.shape[1])


@torch.library.custom_op("sapience::fp8_quantize_weight", mutates_args=())
def quantize_weight(weight_GRC: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stacked matrices as blocks, and turned."""
    weight_GRC = weight_GRC.contiguous()
    stack, rows, columns = weight_GRC.shape
    made = _blocks(weight_GRC, planes)
    down, across = rounded_up(rows), rounded_up(columns)
    _quantize_weight[(across // 128, down // 128, stack)](
        weight_GRC, *made, rows, columns, planes * down, across, planes, made[1].shape[2], made[3].shape[2], num_warps=4
    )
    return made


@quantize_weight.register_fake
def _(weight_GRC: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _blocks(weight_GRC, planes)


def _blocks(weight_GRC: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stack, rows, columns = weight_GRC.shape
    outer, down, across = stack // planes, planes * rounded_up(rows), rounded_up(columns)
    return (
        torch.empty((outer, down, across), dtype=_TYPE, device=weight_GRC.device),
        torch.ones((outer, down // 128, rounded_up(across // 128, 4)), dtype=torch.float32, device=weight_GRC.device),
        torch.empty((outer, across, down), dtype=_TYPE, device=weight_GRC.device),
        torch.ones((outer, across // 128, rounded_up(down // 128, 4)), dtype=torch.float32, device=weight_GRC.device),
    )


@triton.jit
def scale_of(largest):  # type: ignore[no-untyped-def]
    """See `sapience.ops.fp8_blocks.scale_of`; the scale and its inverse."""
    bits = largest.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) - 135 + tl.where((bits & 0x7FFFFF) > 0x680000, 1, 0)
    exponent = tl.maximum(exponent, -100)
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True), ((127 - exponent) << 23).to(tl.float32, bitcast=True)


@triton.jit
def packed(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Four neighbours of [ROWS, COLUMNS] in float32 as one word of four E4M3 elements: [ROWS, COLUMNS/4] in int32.

    What leaves a program are words only: where elements of 8 bits change places among threads, Triton 3.6 makes code that
    confuses them (byte permutations that pick from the wrong register).
    """
    fours = tl.reshape(tile, (ROWS, COLUMNS // 4, 2, 2))
    even, odd = tl.split(fours)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return tl.inline_asm_elementwise(
        """{
        .reg .b16 low, high;
        cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
        cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
        mov.b32 $0, {low, high};
        }""",
        "=r,f,f,f,f",
        [first, second, third, fourth],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def store_tile(tile, elements, row, block, width, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, 128] in float32, scaled already, into the block's columns of elements [count, width]."""
    words = elements.to(tl.pointer_type(tl.int32), bitcast=True)
    word = block.to(tl.int64) * 32 + tl.arange(0, 32)
    tl.store(words + row[:, None].to(tl.int64) * (width // 4) + word[None, :], packed(tile, ROWS, 128))


@triton.jit
def store_rows(tile, elements, scales, row, block, width, count, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, 128] in float32 with one scale a row: elements [count, width], scales [width/128, count]."""
    scale, inverse = scale_of(tl.max(tl.abs(tile), 1))
    store_tile(tile * inverse[:, None], elements, row, block, width, ROWS)
    tl.store(scales + block.to(tl.int64) * count + row, scale)


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]
    x,
    elements,
    scales,
    turned,
    turned_scales,
    rows,
    columns,
    count,
    width,
    stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    across, down = tl.program_id(0), tl.program_id(1)
    row = down * 128 + tl.arange(0, 128)
    column = across * 128 + tl.arange(0, 128)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tile = tl.load(x + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0.0)
    if ROWS:
        store_rows(tile.to(tl.float32), elements, scales, row, across, width, count, 128)
    if COLUMNS:
        store_rows(tl.trans(tile).to(tl.float32), turned, turned_scales, column, down, count, width, 128)


@triton.jit
def _quantize_normed(  # type: ignore[no-untyped-def]
    x,
    weight,
    elements,
    scales,
    rows,
    columns,
    count,
    width,
    stride,
    eps,
    LINES: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Whole rows, read once: LINES of them."""
    row = tl.program_id(0) * LINES + tl.arange(0, LINES)
    column = tl.arange(0, SPAN)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    wide = tl.load(x + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 1) / columns + eps)
    factor = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32)
    normed = (wide * root[:, None] * factor[None, :]).to(x.dtype.element_ty).to(tl.float32)
    tiles = tl.reshape(normed, (LINES, SPAN // 128, 128))
    scale, inverse = scale_of(tl.max(tl.abs(tiles), 2))
    words = packed(tl.reshape(tiles * inverse[:, :, None], (LINES, SPAN)), LINES, SPAN)
    word = tl.arange(0, SPAN // 4)
    place = elements.to(tl.pointer_type(tl.int32), bitcast=True) + row[:, None].to(tl.int64) * (width // 4)
    tl.store(place + word[None, :], words, mask=word[None, :] < width // 4)
    block = tl.arange(0, SPAN // 128)
    place = scales + block[None, :].to(tl.int64) * count + row[:, None]
    tl.store(place, scale, mask=block[None, :] < width // 128)


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    elements, scales, chosen, turned, turned_scales, rows, columns, count, CHOSEN: tl.constexpr
):
    down, across = tl.program_id(0), tl.program_id(1)  # in this order neighbours write side by side
    row = down * 128 + tl.arange(0, 128)
    column = across * 128 + tl.arange(0, 128)
    source = row
    if CHOSEN:
        source = tl.load(chosen + row)
    there = source < rows
    place = elements + source[:, None].to(tl.int64) * columns + column[None, :]
    scale = tl.load(scales + across.to(tl.int64) * rows + source, mask=there, other=1.0)
    # Four significant bits times a power of two: exact in bfloat16.
    tile = tl.load(place, mask=there[:, None], other=0.0).to(tl.bfloat16) * scale[:, None].to(tl.bfloat16)
    store_rows(tl.trans(tile).to(tl.float32), turned, turned_scales, column, down, count, columns, 128)


@triton.jit
def _gather(elements, scales, chosen, out, out_scales, rows, columns, count):  # type: ignore[no-untyped-def]
    row = tl.program_id(1) * 32 + tl.arange(0, 32)
    column = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    source = tl.load(chosen + row)
    there = source < rows
    inside = column < columns
    tile = tl.load(
        elements + source[:, None].to(tl.int64) * columns + column[None, :],
        mask=there[:, None] & inside[None, :],
        other=0.0,
    )
    tl.store(out + row[:, None].to(tl.int64) * columns + column[None, :], tile, mask=inside[None, :])
    block = tl.program_id(0) * 8 + tl.arange(0, 8)
    used = block < columns // 128
    scale = tl.load(
        scales + block[:, None].to(tl.int64) * rows + source[None, :], mask=used[:, None] & there[None, :], other=1.0
    )
    tl.store(out_scales + block[:, None].to(tl.int64) * count + row[None, :], scale, mask=used[:, None])


@triton.jit
def _quantize_weight(  # type: ignore[no-untyped-def]
    weight, elements, scales, turned, turned_scales, rows, columns, height, width, planes, across_scales, down_scales
):
    across, down, matrix = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = down * 128 + tl.arange(0, 128)
    column = across * 128 + tl.arange(0, 128)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tile = tl.load(
        weight + matrix * rows * columns + row[:, None].to(tl.int64) * columns + column[None, :], mask=inside, other=0.0
    ).to(tl.float32)
    scale, inverse = scale_of(tl.max(tl.max(tl.abs(tile), 1), 0))
    scaled = tile * inverse
    outer = matrix // planes
    plane_row = (matrix % planes) * (height // planes) + row
    plane_block = (matrix % planes) * (height // planes // 128) + down
    start = outer * height * width
    store_tile(scaled, elements + start, plane_row, across, width, 128)
    store_tile(tl.trans(scaled), turned + start, column, plane_block, height, 128)
    tl.store(scales + (outer * (height // 128) + plane_block) * across_scales + across, scale)
    tl.store(turned_scales + (outer * (width // 128) + across) * down_scales + plane_block, scale)
