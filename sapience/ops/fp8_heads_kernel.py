"""Slopes of attention's queries, keys and values as FP8 tiles of the matrix they came from, for CUDA, read once.

Meaning: `sapience.ops.fp8_heads`. A program makes a tile of 128 x 128, whichever heads it lies in.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.fp8_blocks import rounded_up
from sapience.ops.fp8_tiles_kernel import empty_tiles, store_rows

_Four = tuple[Tensor, Tensor, Tensor, Tensor]
_WARPS = 8


@torch.library.custom_op("sapience::fp8_quantize_queries", mutates_args=())
def quantize_queries(slopes_BTHd: Tensor, cosines: Tensor, sines: Tensor) -> _Four:
    """See `fp8_heads.quantize_query_slopes`: elements and scales, both turned. Strides may be any but the last."""
    batches, length, heads, width = slopes_BTHd.shape
    slopes_BTHd = slopes_BTHd if slopes_BTHd.stride(3) == 1 else slopes_BTHd.contiguous()
    cosines, sines = cosines.contiguous(), sines.contiguous()
    made = _made(slopes_BTHd, batches * length, heads * width)
    rows, columns = made[0].shape
    _quantize_heads[(columns // 128, rows // 128)](
        slopes_BTHd,
        slopes_BTHd,
        cosines,
        sines,
        *made,
        batches * length,
        heads * width,
        rows,
        columns,
        length,
        *slopes_BTHd.stride()[:3],
        0,
        0,
        0,
        length * cosines.shape[-1] if cosines.ndim == 3 else 0,
        width,
        0,
        cosines.shape[-1],
        num_warps=_WARPS,
    )
    return made


@quantize_queries.register_fake
def _(slopes_BTHd: Tensor, cosines: Tensor, sines: Tensor) -> _Four:
    batches, length, heads, width = slopes_BTHd.shape
    return _made(slopes_BTHd, batches * length, heads * width)


@torch.library.custom_op("sapience::fp8_quantize_keys_values", mutates_args=())
def quantize_keys_values(keys_BTHd: Tensor, values_BTHv: Tensor, nope: int) -> _Four:
    """See `fp8_heads.quantize_key_value_slopes`."""
    batches, length, heads, value = values_BTHv.shape
    keys_BTHd = keys_BTHd if keys_BTHd.stride(3) == 1 else keys_BTHd.contiguous()
    values_BTHv = values_BTHv if values_BTHv.stride(3) == 1 else values_BTHv.contiguous()
    made = _made(keys_BTHd, batches * length, heads * (nope + value))
    rows, columns = made[0].shape
    _quantize_heads[(columns // 128, rows // 128)](
        keys_BTHd,
        values_BTHv,
        keys_BTHd,
        keys_BTHd,
        *made,
        batches * length,
        heads * (nope + value),
        rows,
        columns,
        length,
        *keys_BTHd.stride()[:3],
        *values_BTHv.stride()[:3],
        0,
        nope,
        value,
        0,
        num_warps=_WARPS,
    )
    return made


@quantize_keys_values.register_fake
def _(keys_BTHd: Tensor, values_BTHv: Tensor, nope: int) -> _Four:
    batches, length, heads, value = values_BTHv.shape
    return _made(keys_BTHd, batches * length, heads * (nope + value))


def _made(like: Tensor, rows: int, columns: int) -> _Four:
    down, across = rounded_up(rows), rounded_up(columns)
    return *empty_tiles(like, down, across), *empty_tiles(like, across, down)


@triton.jit
def _quantize_heads(  # type: ignore[no-untyped-def]
    first,
    second,
    cosines,
    sines,
    elements,
    scales,
    turned,
    turned_scales,
    rows,
    columns,
    count,
    width,
    length,
    first_batch,
    first_time,
    first_head,
    second_batch,
    second_time,
    second_head,
    angle_batch,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Of every head FIRST numbers of the one tensor, of which the last 2·PAIRS are rotated back, then SECOND of the other."""
    across, down = tl.program_id(0), tl.program_id(1)
    row, column = down * 128 + tl.arange(0, 128), across * 128 + tl.arange(0, 128)
    batch, time = (row // length).to(tl.int64), (row % length).to(tl.int64)
    head, place = column // (FIRST + SECOND), column % (FIRST + SECOND)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tile = tl.load(
        first + (batch * first_batch + time * first_time)[:, None] + (head * first_head + place)[None, :],
        mask=inside & (place < FIRST)[None, :],
        other=0.0,
    )
    if SECOND > 0:
        other = tl.load(
            second
            + (batch * second_batch + time * second_time)[:, None]
            + (head * second_head + place - FIRST)[None, :],
            mask=inside & (place >= FIRST)[None, :],
            other=0.0,
        )
        tile = tl.where((place < FIRST)[None, :], tile, other)
    if PAIRS > 0:
        half = across * 64 + tl.arange(0, 64)  # pairs of columns: no head begins within one
        pair = half % (FIRST // 2) - (FIRST // 2 - PAIRS)
        angle = (batch * angle_batch + time * PAIRS)[:, None] + pair[None, :]
        turning = (row[:, None] < rows) & (pair >= 0)[None, :]
        cosine = tl.load(cosines + angle, mask=turning, other=1.0).to(tile.dtype).to(tl.float32)
        sine = tl.load(sines + angle, mask=turning, other=0.0).to(tile.dtype).to(tl.float32)
        even, odd = tl.split(tl.reshape(tile, (128, 64, 2)))
        even, odd = even.to(tl.float32), odd.to(tl.float32)
        joined = tl.join(even * cosine + odd * sine, odd * cosine - even * sine)
        tile = tl.reshape(joined, (128, 128)).to(tile.dtype)
    store_rows(tile.to(tl.float32), elements, scales, row, across, width, count, 128)
    store_rows(tl.trans(tile).to(tl.float32), turned, turned_scales, column, down, count, width, 128)
