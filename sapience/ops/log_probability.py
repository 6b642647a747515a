"""Log-probabilities of given tokens from hidden states, in chunks, so that a batch's logits never exist at once.

Unlike the cross-entropy beside it, every token has its own slope in the backward pass (GRPO's ratio and KL), so the
logits of a chunk are formed again there instead of a gradient being kept. Logits are float32 even where hidden states are
narrower: rounded ones would be off by more than what two log-probabilities are compared for. Not covered: temperatures
other than one.
"""

from typing import Any

import torch
from torch import Tensor

from sapience.ops.cross_entropy import rows_per_chunk, wide
from sapience.ops.narrow_linear import wide_product
from sapience.ops.wide_linear import reference as wide_reference
from sapience.ops.wide_linear import wide_linear


def reference(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor) -> Tensor:
    """log softmax(hidden head^T)[label] in nats, [N]; the op's meaning."""
    logits_NV = wide_reference(hidden_ND, head_VD.to(hidden_ND.dtype))
    return logits_NV.log_softmax(-1).gather(1, labels_N.unsqueeze(1)).squeeze(1)


def linear_log_probability(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor) -> Tensor:
    """The same, differentiable in hidden states and head, in bounded memory. Every label must be a token."""
    logprobs_N: Tensor = _LinearLogProbability.apply(hidden_ND, head_VD, labels_N)
    return logprobs_N


class _LinearLogProbability(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor) -> Tensor:
        rows, matrix_VD = rows_per_chunk(head_VD), head_VD.to(hidden_ND.dtype)
        logprobs, normalisers = [], []
        for i in range(0, hidden_ND.shape[0], rows):
            logits = wide_linear(hidden_ND[i : i + rows], matrix_VD)
            normaliser = logits.logsumexp(1)
            logprobs.append(logits.gather(1, labels_N[i : i + rows].unsqueeze(1)).squeeze(1) - normaliser)
            normalisers.append(normaliser)
        empty = wide(hidden_ND.new_zeros(0))
        ctx.save_for_backward(hidden_ND, head_VD, labels_N, torch.cat([empty, *normalisers]))
        return torch.cat([empty, *logprobs])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, head_VD, labels_N, normaliser_N = ctx.saved_tensors
        slope_N = slopes[0]
        rows, matrix_VD = rows_per_chunk(head_VD), head_VD.to(hidden_ND.dtype)
        gradient_ND = torch.empty_like(hidden_ND)
        gradient_VD = wide(torch.zeros_like(head_VD))
        for i in range(0, hidden_ND.shape[0], rows):
            hidden, labels, slope = hidden_ND[i : i + rows], labels_N[i : i + rows], slope_N[i : i + rows].unsqueeze(1)
            shares = wide_linear(hidden, matrix_VD).sub_(normaliser_N[i : i + rows].unsqueeze(1)).exp_()
            shares.mul_(-slope).scatter_add_(1, labels.unsqueeze(1), slope.to(shares.dtype))
            shares = shares.to(hidden.dtype)
            gradient_ND[i : i + rows] = shares @ matrix_VD
            gradient_VD += wide_product(shares.t(), hidden)
        return gradient_ND, gradient_VD.to(head_VD.dtype), None
