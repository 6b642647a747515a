"""Matrices in FP8 with a scale for every tile: what V3's products take (report, section 3.3.2).

E4M3 throughout. Activations and their gradients have one scale for 128 numbers in a row, along the side over which a
product adds up: `quantize_rows` for one such side, `quantize_both` for the other too, transposed, since the tensor cores want
both factors to lie along it. Weights have one for a block of 128 x 128, so that both sides are served by one set of numbers.
Scales are powers of two, by which nothing is rounded: an element keeps its bits when tiles along one side become tiles along
the other, unless it falls below the range. Everything is filled up with zeros to multiples of 128. On a CPU the same
numbers are made by plain PyTorch.

Scales lie with the tiles' index first, as the products read them: [K/128, M] for rows [M, K].
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.fp8_blocks import BLOCK, LARGEST, rounded_up, scale_of


@dataclass(frozen=True)
class Tiles:
    """[M, K] in float8_e4m3fn and its scales [K/128, M] in float32, both sides multiples of 128."""

    elements: Tensor
    scales: Tensor


@dataclass(frozen=True)
class WeightBlocks:
    """Matrices [E, J, K] (or [J, K]) in blocks of 128 x 128, for the forward pass and, transposed, for the gradient."""

    elements: Tensor
    """[E, J, K]."""
    scales: Tensor
    """[E, J/128, K/128 rounded up to a multiple of four]."""
    turned: Tensor
    """[E, K, J]."""
    turned_scales: Tensor
    """[E, K/128, J/128 rounded up to a multiple of four]."""

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, in this order: autograd's functions take tensors only."""
        return self.elements, self.scales, self.turned, self.turned_scales


def filled(x: Tensor) -> Tensor:
    """The matrix with zeros to multiples of 128 on both sides."""
    rows, columns = x.shape
    if rows % BLOCK == columns % BLOCK == 0:
        return x
    full = x.new_zeros(rounded_up(rows), rounded_up(columns))
    full[:rows, :columns] = x
    return full


def rows_reference(x_MK: Tensor) -> Tiles:
    """Tiles of 1 x 128 along the rows."""
    tiles = filled(x_MK).float().unflatten(1, (-1, BLOCK))
    scales = scale_of(tiles.abs().amax(2))
    elements = (tiles / scales.unsqueeze(2)).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return Tiles(elements.flatten(1), scales.t().contiguous())


def columns_reference(x_MK: Tensor) -> Tiles:
    """The transposed matrix [K, M] in tiles of 1 x 128 along M."""
    return rows_reference(x_MK.t().contiguous())


def turned_reference(tiles: Tiles, rows_N: Tensor | None = None) -> Tiles:
    """`columns_reference` of what the tiles stand for, or of these rows of it (none for an index beyond the last)."""
    wide = dequantized(tiles)
    if rows_N is not None:
        wide = torch.cat((wide, wide.new_zeros(1, wide.shape[1])))[rows_N.clamp(max=wide.shape[0])]
    return columns_reference(wide)


def gathered_reference(tiles: Tiles, rows_N: Tensor) -> Tiles:
    """The tiles of these rows; zeros for an index beyond the last."""
    beyond = rows_N >= tiles.elements.shape[0]
    place = rows_N.clamp(max=tiles.elements.shape[0] - 1)
    elements = tiles.elements.view(torch.uint8)[place].masked_fill(beyond.unsqueeze(1), 0)
    return Tiles(elements.view(torch.float8_e4m3fn), tiles.scales[:, place].masked_fill(beyond, 1.0))


def dequantized(tiles: Tiles) -> Tensor:
    """element · scale, [M, K] in float32."""
    return (tiles.elements.float().unflatten(1, (-1, BLOCK)) * tiles.scales.t().unsqueeze(2)).flatten(1)


def weight_reference(weight_GRC: Tensor, planes: int = 1) -> WeightBlocks:
    """Blocks of stacked matrices. `planes` of them in a row are one matrix [planes·R, C], each filled up by itself."""
    stack, rows, columns = weight_GRC.shape
    down, across = rounded_up(rows), rounded_up(columns)
    full = weight_GRC.new_zeros(stack, down, across, dtype=torch.float32)
    full[:, :rows, :columns] = weight_GRC
    full = full.view(stack // planes, planes * down, across)
    blocks = full.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    scales = scale_of(blocks.abs().amax(dim=(2, 4)))
    scaled = blocks / scales.unsqueeze(2).unsqueeze(4)
    elements = scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).flatten(3, 4).flatten(1, 2)
    turned = elements.view(torch.uint8).mT.contiguous().view(torch.float8_e4m3fn)
    return WeightBlocks(elements, _in_fours(scales), turned, _in_fours(scales.mT))


def weight_dequantized(elements: Tensor, scales: Tensor) -> Tensor:
    """[E, J, K] in float32."""
    wide = elements.float().unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
    return (wide * scales[..., : wide.shape[3]].unsqueeze(2).unsqueeze(4)).flatten(3, 4).flatten(1, 2)


def _in_fours(scales: Tensor) -> Tensor:
    full = scales.new_ones(*scales.shape[:2], rounded_up(scales.shape[2], 4))
    full[..., : scales.shape[2]] = scales
    return full


def quantize_rows(x_MK: Tensor) -> Tiles:
    """`rows_reference` by the fastest way there is."""
    if not x_MK.is_cuda:
        return rows_reference(x_MK)
    from sapience.ops import fp8_tiles_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

    return Tiles(*fp8_tiles_kernel.quantize_rows(x_MK))


def quantize_normed(x_MK: Tensor, weight_K: Tensor, eps: float) -> Tiles:
    """`quantize_rows` of x over its rows' root mean square, times the weight; on a GPU without writing that down."""
    if not x_MK.is_cuda:
        normed = functional.rms_norm(x_MK.to(weight_K.dtype), weight_K.shape, weight_K, eps)
        return rows_reference(normed.to(x_MK.dtype))
    from sapience.ops import fp8_tiles_kernel

    return Tiles(*fp8_tiles_kernel.quantize_normed(x_MK, weight_K, eps))


def quantize_both(x_MK: Tensor) -> tuple[Tiles, Tiles]:
    """`rows_reference` and `columns_reference`, read once."""
    if not x_MK.is_cuda:
        return rows_reference(x_MK), columns_reference(x_MK)
    from sapience.ops import fp8_tiles_kernel

    elements, scales, turned, turned_scales = fp8_tiles_kernel.quantize_both(x_MK)
    return Tiles(elements, scales), Tiles(turned, turned_scales)


def turn(tiles: Tiles, rows_N: Tensor | None = None) -> Tiles:
    """`turned_reference` by the fastest way there is."""
    if not tiles.elements.is_cuda:
        return turned_reference(tiles, rows_N)
    from sapience.ops import fp8_tiles_kernel

    return Tiles(*fp8_tiles_kernel.turn(tiles.elements, tiles.scales, rows_N))


def gather(tiles: Tiles, rows_N: Tensor) -> Tiles:
    """`gathered_reference` by the fastest way there is."""
    if not tiles.elements.is_cuda:
        return gathered_reference(tiles, rows_N)
    from sapience.ops import fp8_tiles_kernel

    return Tiles(*fp8_tiles_kernel.gather(tiles.elements, tiles.scales, rows_N))


def quantize_weight(weight_GRC: Tensor, planes: int = 1) -> WeightBlocks:
    """`weight_reference` by the fastest way there is."""
    if not weight_GRC.is_cuda:
        return weight_reference(weight_GRC, planes)
    from sapience.ops import fp8_tiles_kernel

    return WeightBlocks(*fp8_tiles_kernel.quantize_weight(weight_GRC, planes))
