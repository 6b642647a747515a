"""Rows of the embedding for tokens, in the type of the hidden states.

The gradient of a wide vocabulary is nearly all zeros, yet has to be written whole. On a GPU tokens are sorted, and each row
of the gradient is written once, the sum over its token's places or zero: a third of the time that clearing, summing
in parts and scattering take, and always in the same order.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def reference(tokens: Tensor, weight_VD: Tensor, number: torch.dtype) -> Tensor:
    """weight[tokens] in this type, […, D]."""
    return functional.embedding(tokens, weight_VD).to(number)


def embedding(tokens: Tensor, weight_VD: Tensor, number: torch.dtype) -> Tensor:
    """The same, by the fastest way there is."""
    if weight_VD.is_cuda and weight_VD.dtype != torch.float64 and tokens.numel():
        vectors: Tensor = _Embedding.apply(tokens, weight_VD, number)
        return vectors
    return reference(tokens, weight_VD, number)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight_VD: Tensor, number: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.count, ctx.type = weight_VD.shape[0], weight_VD.dtype
        return reference(tokens, weight_VD, number)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor, None]:
        from sapience.ops import embedding_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

        (tokens,) = ctx.saved_tensors
        rows_ND = slopes[0].reshape(tokens.numel(), -1).contiguous()
        return None, embedding_kernel.sum_of_places(rows_ND, tokens.flatten(), ctx.count, ctx.type), None
