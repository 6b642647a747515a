"""A linear layer whose result is float32 though its factors are narrower: the gate's, which V3 keeps in higher precision.

The product of two bfloat16 numbers is exact in float32, so a product that adds up in float32 is what casting both factors
first would give, at a fraction of the time. A float32 weight, and the slope, go in as two bfloat16 parts (16 of 24 bits).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def reference(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """x weight^T with both factors cast to float32 (float64 stays); [T, E]."""
    wide = torch.promote_types(x_TD.dtype, torch.float32)
    return functional.linear(x_TD.to(wide), weight_ED.to(wide))


def wide_linear(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """The same, by the fastest way there is."""
    if x_TD.is_cuda and x_TD.dtype == torch.bfloat16 and weight_ED.dtype in (torch.bfloat16, torch.float32):
        result: Tensor = _WideLinear.apply(x_TD, weight_ED)
        return result
    return reference(x_TD, weight_ED)


def _parts(wide: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 tensor as the sum of two in bfloat16."""
    upper = wide.to(torch.bfloat16)
    return upper, (wide - upper).to(torch.bfloat16)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ED)
        if weight_ED.dtype == torch.bfloat16:
            return torch.mm(x_TD, weight_ED.t(), out_dtype=torch.float32)
        upper_TE, lower_TE = torch.mm(x_TD, torch.cat(_parts(weight_ED)).t(), out_dtype=torch.float32).chunk(2, dim=1)
        return upper_TE + lower_TE

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        x_TD, weight_ED = ctx.saved_tensors
        narrow_ED = weight_ED.to(x_TD.dtype)
        parts_T2E = torch.cat(_parts(slopes[0]), dim=1)
        gradient_TD = parts_T2E @ torch.cat((narrow_ED, narrow_ED))
        upper_ED, lower_ED = torch.mm(parts_T2E.t(), x_TD, out_dtype=torch.float32).chunk(2)
        return gradient_TD, (upper_ED + lower_ED).to(weight_ED.dtype)
