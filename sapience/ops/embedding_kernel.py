"""For every token of a vocabulary the sum of the rows where it stands, in one kernel, for CUDA."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 8


def sum_of_places(rows_ND: Tensor, tokens_N: Tensor, count: int, number: torch.dtype) -> Tensor:
    """[count, D] in this type, summed in float32 in the order of the places; zero for a token that stands nowhere."""
    ordered_N, place_N = tokens_N.sort(stable=True)
    ends = torch.searchsorted(ordered_N, torch.arange(count + 1, dtype=tokens_N.dtype, device=tokens_N.device))
    width = rows_ND.shape[1]
    sums_VD = torch.empty((count, width), dtype=number, device=rows_ND.device)
    block = min(1024, triton.next_power_of_2(width))
    _sum_of_places[(count, triton.cdiv(width, block))](
        rows_ND, place_N, ends, sums_VD, width, _ROWS, block, num_warps=4
    )
    return sums_VD


@triton.jit
def _sum_of_places(rows, places, ends, sums, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    first, last = tl.load(ends + token), tl.load(ends + token + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, last, ROWS):
        index = start + tl.arange(0, ROWS)
        place = tl.load(places + index, mask=index < last, other=0)
        part = tl.load(
            rows + place[:, None] * width + column[None, :], mask=(index < last)[:, None] & inside[None, :], other=0.0
        )
        total += tl.sum(part.to(tl.float32), 0)
    tl.store(sums + token * width + column, total.to(sums.dtype.element_ty), mask=inside)
