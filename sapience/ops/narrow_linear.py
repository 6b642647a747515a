"""A linear layer whose weight is wider than its input: products take a narrower copy, the weight's gradient stays wide.

The usual way to train in bfloat16 with float32 weights: the copy is made once a step, not once a product, and the weight's
gradient adds up in float32 inside of the product.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.put_off import kept, weight_gradient


def reference(x: Tensor, weight_JK: Tensor) -> Tensor:
    """x weight^T in x's type, […, J]; autograd differentiates it and rounds the weight's gradient to x's type."""
    return functional.linear(x, weight_JK.to(x.dtype))


def narrow_linear(x: Tensor, weight_JK: Tensor, copy_JK: Tensor) -> Tensor:
    """`reference` with the rounded weight given; gradients in the types of x and weight."""
    y: Tensor = _NarrowLinear.apply(x, weight_JK, copy_JK.detach())
    return y


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """left right, kept in float32 where the factors are narrower; a CPU rounds the product first."""
    if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    product = left @ right
    return product if product.dtype == torch.float64 else product.float()


class _NarrowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_JK: Tensor, copy_JK: Tensor) -> Tensor:
        ctx.save_for_backward(x, copy_JK)
        ctx.weight, ctx.type = kept(weight_JK), weight_JK.dtype
        return functional.linear(x, copy_JK)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, copy_JK = ctx.saved_tensors
        slope = slopes[0]

        def gradient() -> Tensor:
            rows_NJ = slope.reshape(-1, slope.shape[-1])
            return wide_product(rows_NJ.t(), x.reshape(-1, x.shape[-1])).to(ctx.type)

        return slope @ copy_JK, weight_gradient(ctx.weight, gradient), None
