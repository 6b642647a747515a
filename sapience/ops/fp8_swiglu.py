"""SwiGLU between two FP8 products: its input is kept in FP8, its output made again in the backward pass.

The report's way (section 3.3.3). A row may have a weight, an expert's, that multiplies the output.
"""

import torch
from torch import Tensor

from sapience.ops.fp8_tiles import Tiles, dequantized, rows_reference, turn, turned_reference


def reference(products_MF: Tensor, weights_M: Tensor | None) -> tuple[Tiles, Tiles]:
    """silu(gate) · up · weight in tiles [M, F], and its input [M, 2F] (gate, then up) in tiles."""
    gate, up = products_MF.float().chunk(2, dim=1)
    inner = gate * gate.sigmoid() * up
    if weights_M is not None:
        inner = inner * weights_M.unsqueeze(1)
    return rows_reference(inner), rows_reference(products_MF)


def gradient_reference(
    products: Tiles, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tiles, Tiles, Tiles, Tensor]:
    """From the kept input and the output's gradient [M, F]: the input's gradient in tiles [M, 2F] and [2F, M], the weighted
    output in tiles [F, M], and the weights' gradient [M]. Transposed tiles are made from those along the rows."""
    gate, up = dequantized(products).chunk(2, dim=1)
    slope = slope_MF.float()
    share = gate.sigmoid()
    silu = gate * share
    inner = silu * up
    weights_gradient_M = (inner * slope).sum(1)
    if weights_M is not None:
        slope, inner = slope * weights_M.unsqueeze(1), inner * weights_M.unsqueeze(1)
    gradient = torch.cat((slope * up * (share + silu * (1 - share)), slope * silu), dim=1)
    tiles = rows_reference(gradient)
    return tiles, turned_reference(tiles), turned_reference(rows_reference(inner)), weights_gradient_M


def swiglu_tiles(products_MF: Tensor, weights_M: Tensor | None) -> tuple[Tiles, Tiles]:
    """`reference` by the fastest way there is. M and F are multiples of 128."""
    if not products_MF.is_cuda:
        return reference(products_MF, weights_M)
    from sapience.ops import fp8_swiglu_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

    inner, inner_scales, kept, kept_scales = fp8_swiglu_kernel.forward(products_MF, weights_M)
    return Tiles(inner, inner_scales), Tiles(kept, kept_scales)


def swiglu_gradient_tiles(
    products: Tiles, slope_MF: Tensor, weights_M: Tensor | None
) -> tuple[Tiles, Tiles, Tiles, Tensor]:
    """`gradient_reference` by the fastest way there is."""
    if not slope_MF.is_cuda:
        return gradient_reference(products, slope_MF, weights_M)
    from sapience.ops import fp8_swiglu_kernel

    *made, parts = fp8_swiglu_kernel.backward(products.elements, products.scales, slope_MF, weights_M)
    gradient, inner = Tiles(*made[:2]), Tiles(*made[2:])
    return gradient, turn(gradient), turn(inner), parts.sum(0)
