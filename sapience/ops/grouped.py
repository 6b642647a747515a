"""Products of contiguous groups of rows, each group with a matrix of its own: the experts' arithmetic.

`torch.nn.functional.grouped_mm` (a private op before torch 2.10) is used on CPU and GPU where its shapes and types
allow; the reference loop defines the meaning and serves float64 and odd widths.
"""

import torch
from torch import Tensor

_GROUPED_TYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}


def reference(rows_NK: Tensor, matrices_EJK: Tensor, counts_E: Tensor) -> Tensor:
    """rows[group e] @ matrices[e]^T for consecutive groups of counts[e] rows; [N, J]."""
    pieces = torch.split(rows_NK, counts_E.tolist())
    return torch.cat([piece @ matrix.t() for piece, matrix in zip(pieces, matrices_EJK, strict=True)])


def grouped_linear(rows_NK: Tensor, matrices_EJK: Tensor, counts_E: Tensor) -> Tensor:
    """The same in one call. counts_E sums to N; no host synchronisation on a GPU."""
    allowed = _GROUPED_TYPES.get(rows_NK.device.type, ())
    aligned = rows_NK.shape[1] * rows_NK.element_size() % 16 == 0 and matrices_EJK.shape[1] % 8 == 0
    if rows_NK.dtype not in allowed or rows_NK.dtype != matrices_EJK.dtype or not aligned:
        return reference(rows_NK, matrices_EJK, counts_E)
    ends_E = counts_E.cumsum(0).to(torch.int32)
    product: Tensor = torch._grouped_mm(rows_NK, matrices_EJK.transpose(1, 2), offs=ends_E)
    return product
