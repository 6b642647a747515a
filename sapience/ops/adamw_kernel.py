"""AdamW's update as one kernel, for CUDA, which writes the weight's copy for products as well."""

import math

import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.fp8_tiles_kernel import packed, scale_of

_BLOCK = 4096
_STRIP = 64


def adamw_(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    factor: Tensor,
    step: Tensor,
    copy: Tensor | None,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """See `sapience.ops.adamw`. All tensors contiguous; `step` in float32."""
    count = weight.numel()
    _adamw[(triton.cdiv(count, _BLOCK),)](
        weight,
        gradient,
        first,
        second,
        copy,
        factor,
        step,
        learning_rate,
        weight_decay,
        beta1,
        beta2,
        math.log2(beta1) if beta1 else -1e9,
        math.log2(beta2) if beta2 else -1e9,
        epsilon,
        count,
        copy is not None,
        _BLOCK,
        num_warps=8,
    )


def adamw_blocks_(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    factor: Tensor,
    step: Tensor,
    blocks: tuple[Tensor, Tensor, Tensor, Tensor],
    planes: int,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """The same where the copy is in FP8: elements, scales, both turned, as `fp8_tiles.quantize_weight` makes them."""
    rows, columns = weight.shape[-2] // planes, weight.shape[-1]
    height, width = blocks[0].shape[1:]
    _adamw_blocks[(width // 128, height // planes // 128, weight.numel() // (rows * columns))](
        weight,
        gradient,
        first,
        second,
        factor,
        step,
        learning_rate,
        weight_decay,
        beta1,
        beta2,
        math.log2(beta1) if beta1 else -1e9,
        math.log2(beta2) if beta2 else -1e9,
        epsilon,
        *blocks,
        rows,
        columns,
        height,
        width,
        planes,
        blocks[1].shape[2],
        blocks[3].shape[2],
        _STRIP,
        num_warps=16,
    )


@triton.jit
def _moved(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    first,
    second,
    step,
    place,
    inside,
    shorter,
    rate,
    decay,
    beta1,
    beta2,
    log_beta1,
    log_beta2,
    epsilon,
):
    """The moved weights in float32, zero outside; they and their moments are written. Of all these only weights are read
    again soon: the others are the first to leave the caches."""
    slope = tl.load(gradient + place, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32) * shorter
    mean = tl.load(first + place, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    square = tl.load(second + place, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    mean += (slope - mean) * (1 - beta1)
    square = square * beta2 + slope * slope * (1 - beta2)
    done = tl.load(step)
    first_share = 1 - tl.exp2(done * log_beta1)
    second_share = 1 - tl.exp2(done * log_beta2)
    moved = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * (1 - rate * decay)
    moved -= rate * (mean / first_share) / (tl.sqrt(square / second_share) + epsilon)
    tl.store(first + place, mean.to(first.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    tl.store(second + place, square.to(second.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    tl.store(weight + place, moved.to(weight.dtype.element_ty), mask=inside)
    return moved


@triton.jit
def _adamw(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    first,
    second,
    copy,
    factor,
    step,
    rate,
    decay,
    beta1,
    beta2,
    log_beta1,
    log_beta2,
    epsilon,
    count,
    COPIED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    shorter = tl.load(factor)
    if tl.abs(shorter) < float("inf"):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = place < count
        moved = _moved(
            weight,
            gradient,
            first,
            second,
            step,
            place,
            inside,
            shorter,
            rate,
            decay,
            beta1,
            beta2,
            log_beta1,
            log_beta2,
            epsilon,
        )
        if COPIED:
            tl.store(copy + place, moved.to(copy.dtype.element_ty), mask=inside)


@triton.jit
def _adamw_blocks(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    first,
    second,
    factor,
    step,
    rate,
    decay,
    beta1,
    beta2,
    log_beta1,
    log_beta2,
    epsilon,
    elements,
    scales,
    turned,
    turned_scales,
    rows,
    columns,
    height,
    width,
    planes,
    across_scales,
    down_scales,
    STRIP: tl.constexpr,
):
    """A block of 128 x 128, moved in strips of some rows, since all its numbers at once do not fit into registers; then read
    once more, out of the caches, and quantized, in strips again."""
    shorter = tl.load(factor)
    if tl.abs(shorter) < float("inf"):
        across, down, matrix = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
        start = matrix * rows * columns + down.to(tl.int64) * 128 * columns + across * 128
        weight += start
        gradient += start
        first += start
        second += start
        column = tl.arange(0, 128)
        line = tl.arange(0, STRIP)
        largest = tl.zeros((STRIP, 128), tl.float32)
        for strip in range(0, 128, STRIP):
            inside = ((down * 128 + strip + line)[:, None] < rows) & ((across * 128 + column)[None, :] < columns)
            moved = _moved(
                weight,
                gradient,
                first,
                second,
                step,
                (strip + line)[:, None] * columns + column[None, :],
                inside,
                shorter,
                rate,
                decay,
                beta1,
                beta2,
                log_beta1,
                log_beta2,
                epsilon,
            )
            largest = tl.maximum(largest, tl.abs(moved))
        scale, inverse = scale_of(tl.max(tl.max(largest, 1), 0))
        outer = matrix // planes
        plane_block = (matrix % planes) * (height // planes // 128) + down
        begin = outer * height * width
        flat = (elements + begin + plane_block * 128 * width + across * 128).to(tl.pointer_type(tl.int32), bitcast=True)
        upright = turned + begin + across.to(tl.int64) * 128 * height + plane_block * 128
        upright = upright.to(tl.pointer_type(tl.int32), bitcast=True)
        tl.debug_barrier()  # what one thread wrote others read
        for strip in range(0, 128, STRIP):
            inside = ((down * 128 + strip + line)[:, None] < rows) & ((across * 128 + column)[None, :] < columns)
            place = (strip + line)[:, None] * columns + column[None, :]
            tile = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * inverse
            fours = (strip + line)[:, None] * (width // 4) + tl.arange(0, 32)[None, :]
            tl.store(flat + fours, packed(tile, STRIP, 128))
            fours = column[:, None] * (height // 4) + strip // 4 + tl.arange(0, STRIP // 4)[None, :]
            tl.store(upright + fours, packed(tl.trans(tile), 128, STRIP))
        tl.store(scales + (outer * (height // 128) + plane_block) * across_scales + across, scale)
        tl.store(turned_scales + (outer * (width // 128) + across) * down_scales + plane_block, scale)
