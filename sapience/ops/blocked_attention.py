"""Causal attention on a CPU, a block of queries at a time, as batched products.

PyTorch's fused kernel spends a CPU's time on small products and on exponentials; products of all heads of a row against a
block of queries run at nearly full speed, and powers of two take a third of an exponential's time. Keys later than a block
are not touched. Weights are made again in the backward pass. Float32; values may be narrower than keys. Not covered: masks
(see `sapience.ops.masked_attention`) and a backward pass through the gradient itself.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SHORTEST, LONGEST = 512, 2048
"""Between these numbers of positions this is the faster form."""
BLOCK_ELEMENTS = 1 << 22
"""Weights of all heads held at a time, at most: 16 MiB."""


def reference(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, later keys left out) v, [B,H,T,d]; the op's meaning."""
    return functional.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True, scale=scale)


def fits(q_BHTd: Tensor) -> bool:
    """Whether this form should be taken."""
    return q_BHTd.device.type == "cpu" and q_BHTd.dtype == torch.float32 and SHORTEST <= q_BHTd.shape[2] <= LONGEST


def blocked_attention(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, scale: float) -> Tensor:
    """The same, differentiable."""
    mixed_BHTd: Tensor = _forward(q_BHTd, k_BHTd, v_BHTd, scale)[0]
    return mixed_BHTd


def _blocks(q_BHTd: Tensor) -> Iterator[tuple[int, int, int]]:
    """(row, from, to) of every block of queries."""
    rows, heads, length, _ = q_BHTd.shape
    size = max(32, min(128, BLOCK_ELEMENTS // (heads * length) // 32 * 32))
    for row in range(rows):
        for start in range(0, length, size):
            yield row, start, min(start + size, length)


def _scores(block_HTd: Tensor, k_HTd: Tensor, start: int, end: int, hidden: Tensor) -> Tensor:
    """Of a block of queries, start..end, and keys 0..end; minus infinity for later keys."""
    scores = torch.bmm(block_HTd, k_HTd[:, :end].transpose(1, 2))
    scores[..., start:].add_(hidden[: end - start, : end - start])
    return scores


def _hidden() -> Tensor:
    return torch.full((128, 128), -math.inf).triu(1)


@torch.library.custom_op("sapience::blocked_attention", mutates_args=())
def _forward(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """And the base-two logarithm of each query's sum of weights, [B,H,T,1]."""
    rows, heads, length, _ = q_BHTd.shape
    mixed = v_BHTd.new_empty(rows, length, heads, v_BHTd.shape[-1]).transpose(1, 2)
    sums = q_BHTd.new_empty(rows, heads, length, 1)
    hidden, factor = _hidden(), scale * math.log2(math.e)
    for row, start, end in _blocks(q_BHTd):
        weights = _scores(q_BHTd[row, :, start:end] * factor, k_BHTd[row], start, end, hidden)
        highest = weights.amax(-1, keepdim=True)
        weights.sub_(highest).exp2_()
        total = weights.sum(-1, keepdim=True)
        torch.div(torch.bmm(weights, v_BHTd[row, :, :end]), total, out=mixed[row, :, start:end])
        torch.add(highest, total.log2_(), out=sums[row, :, start:end])
    return mixed, sums


@_forward.register_fake
def _(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    rows, heads, length, _ = q_BHTd.shape
    mixed = v_BHTd.new_empty(rows, length, heads, v_BHTd.shape[-1]).transpose(1, 2)
    return mixed, q_BHTd.new_empty(rows, heads, length, 1)


@torch.library.custom_op("sapience::blocked_attention_backward", mutates_args=())
def _backward(
    slope_BHTd: Tensor, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, mixed_BHTd: Tensor, sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    gradients = [torch.empty_like(one.transpose(1, 2)).transpose(1, 2) for one in (q_BHTd, k_BHTd, v_BHTd)]
    of_q, of_k, of_v = gradients
    hidden, factor = _hidden(), scale * math.log2(math.e)
    shares = (slope_BHTd * mixed_BHTd).sum(-1, keepdim=True)
    k_sum, v_sum = torch.empty_like(k_BHTd[0]), torch.empty_like(v_BHTd[0])
    for row, start, end in _blocks(q_BHTd):
        if start == 0:
            q_HTd, k_HTd = q_BHTd[row] * factor, k_BHTd[row] * scale
            k_sum.zero_()
            v_sum.zero_()
        slope = slope_BHTd[row, :, start:end]
        weights = _scores(q_HTd[:, start:end], k_BHTd[row], start, end, hidden).sub_(sums[row, :, start:end]).exp2_()
        v_sum[:, :end].baddbmm_(weights.transpose(1, 2), slope)
        scores = torch.bmm(slope, v_BHTd[row, :, :end].transpose(1, 2))
        scores.sub_(shares[row, :, start:end]).mul_(weights)
        of_q[row, :, start:end] = torch.bmm(scores, k_HTd[:, :end])
        k_sum[:, :end].baddbmm_(scores.transpose(1, 2), q_HTd[:, start:end])
        if end == q_BHTd.shape[2]:
            torch.mul(k_sum, math.log(2), out=of_k[row])
            of_v[row] = v_sum
    return of_q, of_k, of_v


@_backward.register_fake
def _(
    slope_BHTd: Tensor, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, mixed_BHTd: Tensor, sums: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.empty_like(one.transpose(1, 2)).transpose(1, 2) for one in (q_BHTd, k_BHTd, v_BHTd))
    return q, k, v


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.scale = inputs[3]


def _differentiate(ctx: Any, slope_BHTd: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(slope_BHTd, *ctx.saved_tensors, ctx.scale), None)


_forward.register_autograd(_differentiate, setup_context=_keep)
