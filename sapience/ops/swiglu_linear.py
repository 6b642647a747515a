"""SwiGLU and the linear layer behind it, of which the backward pass keeps the argument alone.

SwiGLU's result is made again when the weight's gradient needs it, as DeepSeek-V3 does (report, section 3.2.3). The weight may
be wider than the rows, as in `sapience.ops.narrow_linear`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.experts import swiglu
from sapience.ops.narrow_linear import wide_product
from sapience.ops.put_off import kept, weight_gradient


def reference(gate_and_up: Tensor, weight_DF: Tensor) -> Tensor:
    """swiglu(gate_and_up) weight^T, [… , 2F] to […, D]; autograd differentiates it."""
    return functional.linear(swiglu(gate_and_up), weight_DF.to(gate_and_up.dtype))


def swiglu_linear(gate_and_up: Tensor, weight_DF: Tensor, copy_DF: Tensor) -> Tensor:
    """`reference` with the weight in the rows' type given; gradients in the types of the rows and of the weight."""
    y: Tensor = _SwigluLinear.apply(gate_and_up, weight_DF, copy_DF.detach())
    return y


class _SwigluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor, weight_DF: Tensor, copy_DF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up, copy_DF)
        ctx.weight, ctx.type = kept(weight_DF), weight_DF.dtype
        return functional.linear(swiglu(gate_and_up), copy_DF)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gate_and_up, copy_DF = ctx.saved_tensors
        outer = slopes[0]
        gate, up = gate_and_up.chunk(2, dim=-1)
        silu = functional.silu(gate)

        def made() -> Tensor:
            inner_NF = (silu * up).flatten(0, -2)
            return wide_product(outer.flatten(0, -2).t(), inner_NF).to(ctx.type)

        slope = outer @ copy_DF
        gradient = torch.cat((torch.ops.aten.silu_backward(slope * up, gate), slope * silu), dim=-1)
        return gradient, weight_gradient(ctx.weight, made), None
