"""A linear layer whose result is float32 though its factors are narrower: the gate's, which V3 keeps in higher precision.

The product of two bfloat16 numbers is exact in float32, so a product that adds up in float32 is what casting both factors
first would give, at a fraction of the time. Backward, the float32 slope goes in as two bfloat16 parts (16 bits of its 24).
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
    if x_TD.is_cuda and x_TD.dtype == weight_ED.dtype == torch.bfloat16:
        result: Tensor = _WideLinear.apply(x_TD, weight_ED)
        return result
    return reference(x_TD, weight_ED)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ED)
        return torch.mm(x_TD, weight_ED.t(), out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        x_TD, weight_ED = ctx.saved_tensors
        slope_TE = slopes[0]
        upper_TE = slope_TE.to(x_TD.dtype)
        parts_T2E = torch.cat((upper_TE, (slope_TE - upper_TE).to(x_TD.dtype)), dim=1)
        gradient_TD = parts_T2E @ torch.cat((weight_ED, weight_ED))
        upper_ED, lower_ED = torch.mm(parts_T2E.t(), x_TD, out_dtype=torch.float32).chunk(2)
        return gradient_TD, (upper_ED + lower_ED).to(weight_ED.dtype)
