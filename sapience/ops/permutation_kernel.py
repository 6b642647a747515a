"""Summing each token's copies in one kernel, for CUDA: reads every row once, adds up in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@torch.library.custom_op("sapience::sum_copies", mutates_args=())
def sum_copies(rows_ND: Tensor, inverse_N: Tensor, choices: int) -> Tensor:
    """The sum of rows[inverse[t·K + k]] over k < K: [T, D] in the rows' type."""
    rows_ND = rows_ND.contiguous()
    tokens, width = inverse_N.shape[0] // choices, rows_ND.shape[1]
    sums_TD = torch.empty((tokens, width), dtype=rows_ND.dtype, device=rows_ND.device)
    if tokens:
        block = min(1024, triton.next_power_of_2(width))
        _sum_copies[(tokens, triton.cdiv(width, block))](
            rows_ND, inverse_N, sums_TD, width, choices, block, num_warps=4
        )
    return sums_TD


@sum_copies.register_fake
def _(rows_ND: Tensor, inverse_N: Tensor, choices: int) -> Tensor:
    return rows_ND.new_empty((inverse_N.shape[0] // choices, rows_ND.shape[1]))


@triton.jit
def _sum_copies(rows, inverse, sums, width, CHOICES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), tl.float32)
    for choice in tl.static_range(CHOICES):
        place = tl.load(inverse + token * CHOICES + choice)
        total += tl.load(rows + place * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + token * width + column, total.to(sums.dtype.element_ty), mask=inside)
