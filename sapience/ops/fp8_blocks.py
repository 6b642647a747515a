"""Weights as FP8 with one scale for every block of 128 x 128: the format of DeepSeek-V3's released checkpoints.

E4M3 elements; W = element · scale, the scale in float32 under the name `weight_scale_inv` (report, section 3.3; the
release's README_WEIGHTS). Blocks at a ragged edge are smaller. The released files have scales amax / 448; ours are the
powers of two above, as the report uses for cached activations and V3.1 for everything: an element has four significant
bits, so that element · scale is exact in bfloat16 too, and what was dequantized quantizes to the same bytes again. That costs
at most a bit of range below the block's largest element, none of precision. Products in FP8 are not covered here.
"""

import torch
from torch import Tensor

BLOCK = 128
LARGEST = 448.0
"""Of float8_e4m3fn."""
ROUNDS_TO_LARGEST = 464.0
"""Up to here, halfway to the next number there would be, round-to-nearest-even gives LARGEST."""
_SIGNIFICAND = 0x680000
"""The bits behind the point of 464 = 1.8125 · 2^8."""
_LEAST_EXPONENT = -100


def scale_shape(rows: int, columns: int) -> tuple[int, int]:
    """Blocks of a matrix: both sides divided by 128, rounded up."""
    return -(-rows // BLOCK), -(-columns // BLOCK)


def scale_of(largest: Tensor) -> Tensor:
    """The smallest power of two by which numbers of this size have to be divided to round to at most 448; float32.

    What is not finite gives a scale at which products are not finite either.
    """
    bits = largest.float().contiguous().view(torch.int32)
    exponent = (bits >> 23) - (127 + 8) + ((bits & 0x7FFFFF) > _SIGNIFICAND).to(torch.int32)
    return ((exponent.clamp(min=_LEAST_EXPONENT) + 127) << 23).view(torch.float32)


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Elements [rows, columns] in float8_e4m3fn and scales [blocks, blocks] in float32, both on the weight's device.

    A block's scale is the smallest power of two at which its largest element rounds to at most 448; one for a block of
    zeros. Raises ValueError for elements that are not finite.
    """
    rows, columns = weight.shape
    down, across = scale_shape(rows, columns)
    padded = torch.zeros(down * BLOCK, across * BLOCK, dtype=torch.float32, device=weight.device)
    padded[:rows, :columns] = weight
    blocks = padded.view(down, BLOCK, across, BLOCK)
    largest = blocks.abs().amax(dim=(1, 3))
    if not bool(largest.isfinite().all()):
        raise ValueError("there are elements that are not finite")
    scale = torch.where(largest > 0, scale_of(largest), torch.ones_like(largest))
    scaled = (blocks / scale.view(down, 1, across, 1)).clamp(-LARGEST, LARGEST)
    elements = scaled.view(down * BLOCK, across * BLOCK)[:rows, :columns].to(torch.float8_e4m3fn)
    return elements.contiguous(), scale


def dequantize_blocks(elements: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """element · scale for a matrix [rows, columns] and its scales [ceil(rows/128), ceil(columns/128)], whatever made them.

    Raises ValueError where the scales do not fit the matrix.
    """
    rows, columns = elements.shape
    if tuple(scale.shape) != scale_shape(rows, columns):
        raise ValueError(f"scales {list(scale.shape)} do not fit blocks of 128 x 128 of {[rows, columns]}")
    spread = scale.float().repeat_interleave(BLOCK, 0)[:rows]
    wide = elements.float()
    for block in range(scale.shape[1]):
        wide[:, block * BLOCK : (block + 1) * BLOCK] *= spread[:, block, None]
    return wide.to(dtype)


def rounded_up(size: int, multiple: int = BLOCK) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
