"""Products of contiguous groups of rows, each group with a matrix of its own: the experts' arithmetic, and its two gradients.

`torch._grouped_mm` is used on CPU and GPU where its shapes and types allow; the loops over groups define the meaning and
serve float64 and odd widths. No host synchronisation on a GPU.
"""

import torch
from torch import Tensor

_GROUPED_TYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}


def reference(rows_NK: Tensor, matrices_EJK: Tensor, counts_E: Tensor) -> Tensor:
    """rows[group e] @ matrices[e]^T for consecutive groups of counts[e] rows; [N, J]."""
    pieces = torch.split(rows_NK, counts_E.tolist())
    return torch.cat([piece @ matrix.t() for piece, matrix in zip(pieces, matrices_EJK, strict=True)])


def weight_reference(slopes_NJ: Tensor, rows_NK: Tensor, counts_E: Tensor) -> Tensor:
    """slopes[group e]^T @ rows[group e]: [E, J, K], zero for a group without rows."""
    counts = counts_E.tolist()
    pairs = zip(torch.split(slopes_NJ, counts), torch.split(rows_NK, counts), strict=True)
    return torch.stack([slopes.t() @ rows for slopes, rows in pairs])


def grouped_linear(rows_NK: Tensor, matrices_EJK: Tensor, counts_E: Tensor) -> Tensor:
    """`reference` in one call, differentiable. counts_E sums to N."""
    if not _fits(rows_NK, matrices_EJK, matrices_EJK.shape[1]):
        return reference(rows_NK, matrices_EJK, counts_E)
    return _grouped_mm(rows_NK, matrices_EJK.transpose(1, 2), _ends(counts_E))


def grouped_data_gradient(slopes_NJ: Tensor, matrices_EJK: Tensor, counts_E: Tensor) -> Tensor:
    """slopes[group e] @ matrices[e]: the gradient of `grouped_linear` in its rows; [N, K]."""
    if not _fits(slopes_NJ, matrices_EJK, matrices_EJK.shape[2]):
        return reference(slopes_NJ, matrices_EJK.transpose(1, 2), counts_E)
    return _grouped_mm(slopes_NJ, matrices_EJK, _ends(counts_E))


def grouped_weight_gradient(slopes_NJ: Tensor, rows_NK: Tensor, counts_E: Tensor) -> Tensor:
    """`weight_reference` in one call: the gradient of `grouped_linear` in its matrices."""
    if not (_fits(slopes_NJ, rows_NK, rows_NK.shape[1]) and rows_NK.shape[0]):
        return weight_reference(slopes_NJ, rows_NK, counts_E)
    return _grouped_mm(slopes_NJ.t(), rows_NK, _ends(counts_E))


def _fits(left: Tensor, right: Tensor, width: int) -> bool:
    """Whether `torch._grouped_mm` takes these: equal types that it has, and rows that begin at multiples of 16 bytes."""
    aligned = left.shape[1] * left.element_size() % 16 == 0 and width * right.element_size() % 16 == 0
    return left.dtype in _GROUPED_TYPES.get(left.device.type, ()) and left.dtype == right.dtype and aligned


def _ends(counts_E: Tensor) -> Tensor:
    return counts_E.cumsum(0).to(torch.int32)


def _grouped_mm(left: Tensor, right: Tensor, ends_E: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and left.dtype == torch.float32:
        return _opaque_grouped_mm(left, right, ends_E)
    product: Tensor = torch._grouped_mm(left, right, offs=ends_E)
    return product


@torch.library.custom_op("sapience::grouped_mm", mutates_args=())
def _opaque_grouped_mm(left: Tensor, right: Tensor, ends_E: Tensor) -> Tensor:
    """In float32, which a CPU computes but PyTorch's compiler refuses. No gradient: it is called by what has its own."""
    product: Tensor = torch._grouped_mm(left, right, offs=ends_E)
    return product


@_opaque_grouped_mm.register_fake
def _(left: Tensor, right: Tensor, ends_E: Tensor) -> Tensor:
    shape = left.shape[:1] + right.shape[2:] if right.ndim == 3 else ends_E.shape + left.shape[:1] + right.shape[1:]
    return left.new_empty(shape)
