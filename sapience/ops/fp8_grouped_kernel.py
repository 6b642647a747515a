"""FP8 products for groups of rows on Hopper tensor cores: what the experts of a layer compute, and its weights' gradient.

There is no such product in PyTorch with V3's scales. A program stays on its multiprocessor and takes one tile of the result
after another. One warp brings the factors' tiles into a ring in shared memory; two groups of four warps, each with 64 rows of
the tile's 128, multiply: 128 numbers deep by the tensor cores, then scaled into the float32 sums in registers. As the two go
at their own pace, one multiplies while the other adds.

Written in Gluon, Triton's lower level, as warps of different tasks cannot be said in Triton itself.
"""

import functools

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

_STAGES = 4
"""Pairs of tiles that the ring holds; 32 KiB each."""
_PRODUCT_GROUP, _WEIGHT_GROUP = 2, 8
"""Rows of tiles that are gone through together; measured."""


@torch.library.custom_op("sapience::fp8_grouped_product", mutates_args=())
def product(elements: Tensor, scales: Tensor, matrices: Tensor, matrix_scales: Tensor, matrix_B: Tensor) -> Tensor:
    """Elements [N, K] and scales [K/128, N], matrices [E, J, K] and scales [E, J/128, K/128 or more], one of them for every
    128 rows: [N, J] in bfloat16."""
    rows, depth = elements.shape
    width = matrices.shape[1]
    result = torch.empty((rows, width), dtype=torch.bfloat16, device=elements.device)
    _product[(_programs(elements.device),)](
        _described(elements, 64),
        _described(matrices.view(-1, depth), 128),
        _described(result, 64),
        _listed(scales, 64),
        matrix_scales,
        matrix_B,
        rows // 128,
        width // 128,
        depth // 128,
        rows,
        width,
        matrix_scales.shape[2],
        GROUP=_PRODUCT_GROUP,
        STAGES=_STAGES,
        num_warps=4,
    )
    return result


@product.register_fake
def _(elements: Tensor, scales: Tensor, matrices: Tensor, matrix_scales: Tensor, matrix_B: Tensor) -> Tensor:
    return elements.new_empty((elements.shape[0], matrices.shape[1]), dtype=torch.bfloat16)


@torch.library.custom_op("sapience::fp8_grouped_weight_product", mutates_args=())
def weight_product(slopes: Tensor, slope_scales: Tensor, rows: Tensor, row_scales: Tensor, first_E: Tensor) -> Tensor:
    """Slopes [J, N] and rows [K, N] with scales along N, a matrix's blocks of 128 from first[e] to first[e + 1]: [E, J, K]
    in float32, and behind it the squares of each 128 of its numbers added up, [E, K/128, J], all in one row."""
    experts = first_E.shape[0] - 1
    height, width = slopes.shape[0], rows.shape[0]
    result = _with_squares(slopes, experts, height, width)
    _weight_product[(_programs(slopes.device),)](
        _described(slopes, 64),
        _described(rows, 128),
        result,
        _listed(slope_scales, 64),
        _listed(row_scales, 128),
        first_E,
        height // 128,
        width // 128,
        experts,
        height,
        width,
        GROUP=_WEIGHT_GROUP,
        STAGES=_STAGES,
        num_warps=4,
    )
    return result


@weight_product.register_fake
def _(slopes: Tensor, slope_scales: Tensor, rows: Tensor, row_scales: Tensor, first_E: Tensor) -> Tensor:
    return _with_squares(slopes, first_E.shape[0] - 1, slopes.shape[0], rows.shape[0])


def _with_squares(like: Tensor, experts: int, height: int, width: int) -> Tensor:
    return like.new_empty(experts * height * (width + width // 128), dtype=torch.float32)


@functools.cache
def _programs(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _described(matrix: Tensor, rows: int) -> TensorDescriptor:
    """A matrix to be read or written in tiles of `rows` x 128."""
    number = gl.float8e4nv if matrix.dtype == torch.float8_e4m3fn else gl.bfloat16
    layout = gl.NVMMASharedLayout.get_default_for([rows, 128], number)
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, 128], layout)


def _listed(scales: Tensor, count: int) -> TensorDescriptor:
    """Scales to be read `count` at a time."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)
    return TensorDescriptor(scales.view(-1), [scales.numel()], [1], [count], layout)


@gluon.jit
def _place(tile, down, across, GROUP: gl.constexpr):  # type: ignore[no-untyped-def]
    """Row and column of a tile: GROUP rows of tiles at a time, so that what is read stays in the second-level cache."""
    size = GROUP * across
    first = (tile // size) * GROUP
    height = min(down - first, GROUP)
    inside = tile % size
    return first + inside % height, inside // height


@gluon.jit
def _ring(left, right, scales, more_scales, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Shared memory for STAGES pairs of tiles (the left one as two halves) and their scales, and barriers: full, empty."""
    left_ring = gl.allocate_shared_memory(left.dtype, [2 * STAGES, 64, 128], left.layout)
    right_ring = gl.allocate_shared_memory(right.dtype, [STAGES, 128, 128], right.layout)
    left_scales = gl.allocate_shared_memory(gl.float32, [2 * STAGES, 64], scales.layout)
    right_scales = gl.allocate_shared_memory(gl.float32, [STAGES, 128], more_scales.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    return left_ring, right_ring, full, empty, left_scales, right_scales


@gluon.jit
def _bring(  # type: ignore[no-untyped-def]
    left,
    right,
    left_scales,
    ring,
    count,
    left_row,
    right_row,
    depth,
    left_scale,
    BYTES: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Start the copy of pair number `count`, once both groups of warps have let go of the pair before it in its place."""
    stage = count % STAGES
    full = ring[2].index(stage)
    mbarrier.wait(ring[3].index(stage), ((count // STAGES) & 1) ^ 1)
    mbarrier.expect(full, BYTES)
    tma.async_copy_global_to_shared(left, [left_row, depth], full, ring[0].index(2 * stage))
    tma.async_copy_global_to_shared(left, [left_row + 64, depth], full, ring[0].index(2 * stage + 1))
    tma.async_copy_global_to_shared(right, [right_row, depth], full, ring[1].index(stage))
    tma.async_copy_global_to_shared(left_scales, [left_scale], full, ring[4].index(2 * stage))
    tma.async_copy_global_to_shared(left_scales, [left_scale + 64], full, ring[4].index(2 * stage + 1))


@gluon.jit
def _begin(ring, count, HALF: gl.constexpr, STAGES: gl.constexpr, LAYOUT: gl.constexpr):  # type: ignore[no-untyped-def]
    """Start the product of this half of pair number `count` as soon as it is there."""
    stage = count % STAGES
    mbarrier.wait(ring[2].index(stage), (count // STAGES) & 1)
    return warpgroup_mma(
        ring[0].index(2 * stage + HALF),
        ring[1].index(stage).permute((1, 0)),
        gl.zeros((64, 128), gl.float32, LAYOUT),
        use_acc=False,
        is_async=True,
        max_num_imprecise_acc=128,
    )


@gluon.jit
def _finish(ring, count, part, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    """The product, and its pair's place is free again."""
    part = warpgroup_mma_wait(0, deps=[part])
    mbarrier.arrive(ring[3].index(count % STAGES), count=1)
    return part


@gluon.jit
def _product_load(left, right, scales, matrix_B, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    down, across, blocks, rows, width, _ = sizes
    count = 0
    for tile in range(gl.program_id(0), down * across, gl.num_programs(0)):
        m, n = _place(tile, down, across, GROUP)
        matrix = gl.load(matrix_B + m)
        if matrix >= 0:
            for k in range(blocks):
                _bring(
                    left,
                    right,
                    scales,
                    ring,
                    count,
                    m * 128,
                    matrix * width + n * 128,
                    k * 128,
                    k * rows + m * 128,
                    2 * 128 * 128 + 512,
                    STAGES,
                )
                count += 1


@gluon.jit
def _product_multiply(  # type: ignore[no-untyped-def]
    result, outgoing, factors, ring, sizes, HALF: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr
):
    matrix_scales, matrix_B = factors
    down, across, blocks, _, _, stride = sizes
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 32])
    count = 0
    for tile in range(gl.program_id(0), down * across, gl.num_programs(0)):
        m, n = _place(tile, down, across, GROUP)
        matrix = gl.load(matrix_B + m)
        if matrix >= 0:
            right_scale = matrix_scales + (matrix * across + n) * stride
            total = gl.zeros((64, 128), gl.float32, layout)
            matrix_scale = gl.load(right_scale)
            for k in range(blocks):
                part = _begin(ring, count, HALF, STAGES, layout)
                coming = gl.load(right_scale + min(k + 1, blocks - 1))
                scale = ring[4].index(2 * (count % STAGES) + HALF).load(gl.SliceLayout(1, layout)) * matrix_scale
                part = _finish(ring, count, part, STAGES)
                total += part * scale[:, None]
                matrix_scale = coming
                count += 1
            tma.store_wait(0)
            outgoing.index(HALF).store(total.to(gl.bfloat16))
            fence_async_shared()
            tma.async_copy_shared_to_global(result, [m * 128 + HALF * 64, n * 128], outgoing.index(HALF))
    tma.store_wait(0)


@gluon.jit
def _product_upper(result, outgoing, factors, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    _product_multiply(result, outgoing, factors, ring, sizes, 0, GROUP, STAGES)


@gluon.jit
def _product_lower(result, outgoing, factors, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    _product_multiply(result, outgoing, factors, ring, sizes, 1, GROUP, STAGES)


@gluon.jit
def _product(  # type: ignore[no-untyped-def]
    left,
    right,
    result,
    scales,
    matrix_scales,
    matrix_B,
    down,
    across,
    blocks,
    rows,
    width,
    stride,
    GROUP: gl.constexpr,
    STAGES: gl.constexpr,
):
    ring = _ring(left, right, scales, scales, STAGES)
    outgoing = gl.allocate_shared_memory(result.dtype, [2, 64, 128], result.layout)
    sizes = (down, across, blocks, rows, width, stride)
    multiplying = (result, outgoing, (matrix_scales, matrix_B), ring, sizes, GROUP, STAGES)
    gl.warp_specialize(
        [
            (_product_upper, multiplying),
            (_product_lower, multiplying),
            (_product_load, (left, right, scales, matrix_B, ring, sizes, GROUP, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )


@gluon.jit
def _weight_load(left, right, scales, first_E, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    left_scales, right_scales = scales
    down, across, experts, height, width = sizes
    count = 0
    for tile in range(gl.program_id(0), experts * down * across, gl.num_programs(0)):
        expert = tile // (down * across)
        m, n = _place(tile % (down * across), down, across, GROUP)
        begin = gl.load(first_E + expert)
        end = gl.load(first_E + expert + 1)
        for block in range(begin, end):
            _bring(
                left,
                right,
                left_scales,
                ring,
                count,
                m * 128,
                n * 128,
                block * 128,
                block * height + m * 128,
                2 * 128 * 128 + 1024,
                STAGES,
            )
            full, place = ring[2].index(count % STAGES), ring[5].index(count % STAGES)
            tma.async_copy_global_to_shared(right_scales, [block * width + n * 128], full, place)
            count += 1


@gluon.jit
def _weight_multiply(  # type: ignore[no-untyped-def]
    result, first_E, ring, sizes, HALF: gl.constexpr, GROUP: gl.constexpr, STAGES: gl.constexpr
):
    down, across, experts, height, width = sizes
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 32])
    row = gl.arange(0, 64, gl.SliceLayout(1, layout))
    column = gl.arange(0, 128, gl.SliceLayout(0, layout))
    count = 0
    for tile in range(gl.program_id(0), experts * down * across, gl.num_programs(0)):
        expert = tile // (down * across)
        m, n = _place(tile % (down * across), down, across, GROUP)
        begin = gl.load(first_E + expert)
        end = gl.load(first_E + expert + 1)
        total = gl.zeros((64, 128), gl.float32, layout)
        for _ in range(begin, end):
            part = _begin(ring, count, HALF, STAGES, layout)
            stage = count % STAGES
            row_scale = ring[4].index(2 * stage + HALF).load(gl.SliceLayout(1, layout))
            column_scale = ring[5].index(stage).load(gl.SliceLayout(0, layout))
            part = _finish(ring, count, part, STAGES)
            total += (part * row_scale[:, None]) * column_scale[None, :]
            count += 1
        place = (expert * height + m * 128 + HALF * 64 + row).to(gl.int64)[:, None] * width + (n * 128 + column)[
            None, :
        ]
        gl.store(result + place, total)
        squares = result + (experts * height).to(gl.int64) * width
        strip = (expert * across + n).to(gl.int64) * height + m * 128 + HALF * 64
        gl.store(squares + strip + row, gl.sum(total * total, 1))


@gluon.jit
def _weight_upper(result, first_E, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    _weight_multiply(result, first_E, ring, sizes, 0, GROUP, STAGES)


@gluon.jit
def _weight_lower(result, first_E, ring, sizes, GROUP: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    _weight_multiply(result, first_E, ring, sizes, 1, GROUP, STAGES)


@gluon.jit
def _weight_product(  # type: ignore[no-untyped-def]
    left,
    right,
    result,
    left_scales,
    right_scales,
    first_E,
    down,
    across,
    experts,
    height,
    width,
    GROUP: gl.constexpr,
    STAGES: gl.constexpr,
):
    ring = _ring(left, right, left_scales, right_scales, STAGES)
    sizes = (down, across, experts, height, width)
    multiplying = (result, first_E, ring, sizes, GROUP, STAGES)
    gl.warp_specialize(
        [
            (_weight_upper, multiplying),
            (_weight_lower, multiplying),
            (_weight_load, (left, right, (left_scales, right_scales), first_E, ring, sizes, GROUP, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )
