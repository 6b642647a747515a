"""Products of FP8 tiles with float32 sums: forward, for the input's gradient, for the weight's; single and for groups of rows.

The report's scheme (section 3.3.2): 128 numbers are multiplied and added up by the tensor cores, then scaled and added to a
float32 sum, since those cores keep too few bits of a longer one. On a GPU single products are the library's (`scaled_mm`),
those for groups are ours; on a CPU the same quantized values are multiplied in float32.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.ops.fp8_blocks import BLOCK
from sapience.ops.fp8_tiles import Tiles, dequantized, weight_dequantized


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which matrix, in blocks of 128 rows."""

    matrix_B: Tensor
    """Matrix of each block of rows, int32; -1 for rows that belong to none."""
    first_E: Tensor
    """First block of each matrix, and the one behind the last: int32 [E + 1]."""


def groups_of(counts_E: Tensor, rows: int) -> Groups:
    """Of consecutive groups of counts[e] rows, multiples of 128; rows behind the last group belong to none."""
    ends_E = (counts_E // BLOCK).cumsum(0)
    block_B = torch.arange(rows // BLOCK, device=counts_E.device)
    matrix_B = (block_B.unsqueeze(1) >= ends_E.unsqueeze(0)).sum(1)
    matrix_B = torch.where(matrix_B == counts_E.shape[0], -1, matrix_B)
    return Groups(matrix_B.to(torch.int32), torch.cat((ends_E.new_zeros(1), ends_E)).to(torch.int32))


def product(tiles: Tiles, elements_JK: Tensor, scales: Tensor) -> Tensor:
    """What the tiles [M, K] stand for times that of the weight's blocks [J, K]^T: [M, J] in bfloat16."""
    if not tiles.elements.is_cuda:
        matrix = weight_dequantized(elements_JK.unsqueeze(0), scales.unsqueeze(0))[0]
        return (dequantized(tiles) @ matrix.t()).to(torch.bfloat16)
    return _product(tiles.elements, tiles.scales, elements_JK, scales)


def weight_product(slopes: Tiles, rows: Tiles) -> Tensor:
    """[J, M] times [K, M]^T, both in tiles along M: [J, K] in float32."""
    if not slopes.elements.is_cuda:
        return dequantized(slopes) @ dequantized(rows).t()
    return _weight_product(slopes.elements, slopes.scales, rows.elements, rows.scales)


def grouped_product(tiles: Tiles, elements_EJK: Tensor, scales: Tensor, groups: Groups) -> Tensor:
    """Every block of rows times its matrix, transposed: [N, J] in bfloat16; undefined in rows that belong to none."""
    if not tiles.elements.is_cuda:
        return _emulated(dequantized(tiles), weight_dequantized(elements_EJK, scales), groups.first_E)
    from sapience.ops import fp8_grouped_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

    return fp8_grouped_kernel.product(tiles.elements, tiles.scales, elements_EJK, scales, groups.matrix_B)


def grouped_weight_product(slopes: Tiles, rows: Tiles, groups: Groups) -> Tensor:
    """For every matrix, [J, N] times [K, N]^T over its rows: [E, J, K] in float32, zero where a matrix has none.

    Its memory goes on with sums of the result's squares: `squares_of`.
    """
    shape = groups.first_E.shape[0] - 1, slopes.elements.shape[0], rows.elements.shape[0]
    if slopes.elements.is_cuda:
        from sapience.ops import fp8_grouped_kernel

        factors = slopes.elements, slopes.scales, rows.elements, rows.scales
        made = fp8_grouped_kernel.weight_product(*factors, groups.first_E)
    else:
        result = _emulated_weights(dequantized(slopes), dequantized(rows), groups.first_E)
        made = torch.cat((result.flatten(), result.unflatten(2, (-1, BLOCK)).square().sum(3).mT.flatten()))
    return made[: math.prod(shape)].view(shape)


def squares_of(gradient: Tensor) -> Tensor | None:
    """What adds up to the sum of its squares, if this is a result of `grouped_weight_product`, untouched since.

    The product has every number at hand before it is written: reading 2.8 GB once more for the gradient's norm would take a
    millisecond. None where something was added to it or it was copied.
    """
    count, storage = gradient.numel(), gradient.untyped_storage()
    whole = count + count // BLOCK
    if gradient._version or gradient.storage_offset() or not gradient.is_contiguous():
        return None
    if count % BLOCK or storage.nbytes() != whole * gradient.element_size():
        return None
    return gradient.as_strided((whole - count,), (1,), count)


def _parts(first_E: Tensor) -> list[tuple[int, slice]]:
    first = [int(block) * BLOCK for block in first_E]
    return [(e, slice(first[e], first[e + 1])) for e in range(len(first) - 1)]


# For PyTorch's compiler each is one op, whatever rows the experts have: it would compile the loops anew for every step.


@torch.library.custom_op("sapience::fp8_emulated_product", mutates_args=())
def _emulated(rows_NK: Tensor, matrices_EJK: Tensor, first_E: Tensor) -> Tensor:
    result = rows_NK.new_zeros(rows_NK.shape[0], matrices_EJK.shape[1])
    for e, part in _parts(first_E):
        result[part] = rows_NK[part] @ matrices_EJK[e].t()
    return result.to(torch.bfloat16)


@_emulated.register_fake
def _(rows_NK: Tensor, matrices_EJK: Tensor, first_E: Tensor) -> Tensor:
    return rows_NK.new_empty((rows_NK.shape[0], matrices_EJK.shape[1]), dtype=torch.bfloat16)


@torch.library.custom_op("sapience::fp8_emulated_weight_product", mutates_args=())
def _emulated_weights(slopes_JN: Tensor, rows_KN: Tensor, first_E: Tensor) -> Tensor:
    result = slopes_JN.new_zeros(first_E.shape[0] - 1, slopes_JN.shape[0], rows_KN.shape[0])
    for e, part in _parts(first_E):
        result[e] = slopes_JN[:, part] @ rows_KN[:, part].t()
    return result


@_emulated_weights.register_fake
def _(slopes_JN: Tensor, rows_KN: Tensor, first_E: Tensor) -> Tensor:
    return slopes_JN.new_empty((first_E.shape[0] - 1, slopes_JN.shape[0], rows_KN.shape[0]))


@torch.library.custom_op("sapience::fp8_product", mutates_args=())
def _product(elements: Tensor, scales: Tensor, matrix: Tensor, matrix_scales: Tensor) -> Tensor:
    from torch.nn.functional import ScalingType, scaled_mm

    return scaled_mm(
        elements,
        matrix.t(),
        scales.t(),
        ScalingType.BlockWise1x128,
        matrix_scales.t(),
        ScalingType.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )


@_product.register_fake
def _(elements: Tensor, scales: Tensor, matrix: Tensor, matrix_scales: Tensor) -> Tensor:
    return elements.new_empty((elements.shape[0], matrix.shape[0]), dtype=torch.bfloat16)


@torch.library.custom_op("sapience::fp8_weight_product", mutates_args=())
def _weight_product(slopes: Tensor, slope_scales: Tensor, rows: Tensor, row_scales: Tensor) -> Tensor:
    from torch.nn.functional import ScalingType, scaled_mm

    return scaled_mm(
        slopes,
        rows.t(),
        slope_scales.t(),
        ScalingType.BlockWise1x128,
        row_scales.t(),
        ScalingType.BlockWise1x128,
        output_dtype=torch.float32,
    )


@_weight_product.register_fake
def _(slopes: Tensor, slope_scales: Tensor, rows: Tensor, row_scales: Tensor) -> Tensor:
    return slopes.new_empty((slopes.shape[0], rows.shape[0]), dtype=torch.float32)
