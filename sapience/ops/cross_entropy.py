"""Cross-entropy from hidden states, in chunks, so that the logits of a whole batch never exist at once.

The head may be wider than the hidden states: products take it in their type, its gradient stays wide.

The gradient with respect to the logits is softmax minus one-hot; it is formed chunk by chunk in the forward pass, while
the logits are at hand, and only its two products (for the hidden states and for the head) are kept. Where all rows are one
chunk and that gradient is smaller than the head's, it is kept itself and the head's made in the backward pass: the wide one
is then written once and not multiplied by the loss's slope. Not covered: label smoothing, and a backward pass through the
gradient itself.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.narrow_linear import wide_product

IGNORE = -100
"""Label of a position without a target."""
CHUNK_ROWS, CHUNK_ELEMENTS = 512, 1 << 24
"""Rows whose logits are held at a time on a CPU, and most logits: fewer rows make slow products, more leave the caches."""


def reference(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Sum over the labelled rows of -log softmax(hidden head^T)[label], times a row's weight, in nats; the op's meaning."""
    logits_NV = functional.linear(hidden_ND, head_VD.to(hidden_ND.dtype)).float()
    losses_N = functional.cross_entropy(logits_NV, labels_N, ignore_index=IGNORE, reduction="none")
    return losses_N.sum() if weights_N is None else (losses_N * weights_N).sum()


def linear_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, weights_N: Tensor | None = None
) -> Tensor:
    """The same sum, differentiable in hidden states and head, in bounded memory. A scalar in float32 (float64 in float64)."""
    loss: Tensor = _LinearCrossEntropy.apply(hidden_ND, head_VD, labels_N, weights_N)
    return loss


@torch.no_grad()
def token_losses(hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor) -> Tensor:
    """-log probability of each label in nats, [N]; zero where there is none. For evaluation."""
    rows, head_VD = rows_per_chunk(head_VD), head_VD.to(hidden_ND.dtype)
    losses = [
        functional.cross_entropy(
            wide(functional.linear(hidden_ND[i : i + rows], head_VD)),
            labels_N[i : i + rows],
            ignore_index=IGNORE,
            reduction="none",
        )
        for i in range(0, hidden_ND.shape[0], rows)
    ]
    return torch.cat(losses)


def rows_per_chunk(head_VD: Tensor) -> int:
    """Rows whose logits are held at a time."""
    if head_VD.device.type != "cpu":
        return 8192
    return max(1, min(CHUNK_ROWS, CHUNK_ELEMENTS // head_VD.shape[0]))


def wide(logits: Tensor) -> Tensor:
    """In float32, or float64 where it is that already."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _losses_and_slopes(logits: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Every row's loss, and its slope in the logits in their type; the logits are used up."""
    if logits.is_cuda and logits.dtype != torch.float64:
        from sapience.ops.cross_entropy_kernel import losses_and_slopes_  # needs triton: PyTorch's CUDA builds have it

        return losses_and_slopes_(logits, labels_N, IGNORE), logits
    slope = wide(logits)
    labelled = labels_N != IGNORE
    index = labels_N.clamp(min=0).unsqueeze(1)
    asked, highest = slope.gather(1, index), slope.amax(1, keepdim=True)
    # A power of two takes a CPU a third of an exponential's time.
    slope = slope.sub_(highest).mul_(math.log2(math.e)).exp2_()
    total = slope.sum(1, keepdim=True)
    losses = (highest + total.log() - asked).squeeze(1) * labelled
    counted = labelled.unsqueeze(1).to(total.dtype)
    slope = slope.mul_(counted / total).scatter_add_(1, index, -counted)
    return losses, slope.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, labels_N: Tensor, weights_N: Tensor | None = None
    ) -> Tensor:
        rows, head, head_VD = rows_per_chunk(head_VD), head_VD, head_VD.to(hidden_ND.dtype)
        wants_gradient = any(ctx.needs_input_grad)
        ctx.type = head.dtype
        ctx.kept = hidden_ND.shape[0] <= rows and hidden_ND[:, :1].nbytes <= head[:1].nbytes
        gradient_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        gradient_VD: Tensor | None = None
        total = torch.zeros((), dtype=wide(hidden_ND[:0]).dtype, device=hidden_ND.device)
        for i in range(0, hidden_ND.shape[0], rows):
            hidden, labels = hidden_ND[i : i + rows], labels_N[i : i + rows]
            weights = None if weights_N is None else weights_N[i : i + rows]
            if gradient_ND is None:
                logits = wide(functional.linear(hidden, head_VD))
                how = "sum" if weights is None else "none"
                losses = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction=how)
                total += losses if weights is None else losses @ weights.to(losses.dtype)
                continue
            losses, slope = _losses_and_slopes(functional.linear(hidden, head_VD), labels)
            if weights is not None:
                losses, slope = losses * weights, slope.mul_(weights.to(slope.dtype).unsqueeze(1))
            total += losses.sum()
            torch.mm(slope, head_VD, out=gradient_ND[i : i + rows])
            if ctx.kept:
                ctx.save_for_backward(gradient_ND, slope, hidden_ND)
            elif gradient_VD is None:
                gradient_VD = wide_product(slope.t(), hidden)
            elif slope.dtype == gradient_VD.dtype:
                gradient_VD.addmm_(slope.t(), hidden)
            else:
                gradient_VD.add_(wide_product(slope.t(), hidden))
        if gradient_ND is not None and gradient_VD is not None:
            ctx.save_for_backward(gradient_ND, gradient_VD.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        if not ctx.saved_tensors:
            return None, None, None, None
        gradient_ND, *others = ctx.saved_tensors
        slope = slopes[0]
        if ctx.kept:
            slope_NV, hidden_ND = others
            gradient_VD = wide_product(slope_NV.t(), hidden_ND * slope.to(hidden_ND.dtype)).to(ctx.type)
            return gradient_ND * slope.to(gradient_ND.dtype), gradient_VD, None, None
        (gradient_VD,) = others
        return gradient_ND * slope.to(gradient_ND.dtype), gradient_VD * slope.to(gradient_VD.dtype), None, None
