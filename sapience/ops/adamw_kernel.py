"""AdamW's update as one kernel, for CUDA, which writes the weight's copy for products as well."""

import math

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def adamw_(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    factor: Tensor,
    step: Tensor,
    copy: Tensor | None,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """See `sapience.ops.adamw`. All tensors contiguous; `step` in float32."""
    count = weight.numel()
    _adamw[(triton.cdiv(count, _BLOCK),)](
        weight,
        gradient,
        first,
        second,
        copy,
        factor,
        step,
        learning_rate,
        weight_decay,
        beta1,
        beta2,
        math.log2(beta1) if beta1 else -1e9,
        math.log2(beta2) if beta2 else -1e9,
        epsilon,
        count,
        copy is not None,
        _BLOCK,
        num_warps=8,
    )


@triton.jit
def _adamw(  # type: ignore[no-untyped-def]
    weight,
    gradient,
    first,
    second,
    copy,
    factor,
    step,
    rate,
    decay,
    beta1,
    beta2,
    log_beta1,
    log_beta2,
    epsilon,
    count,
    COPIED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    shorter = tl.load(factor)
    if tl.abs(shorter) < float("inf"):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = place < count
        slope = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32) * shorter
        mean = tl.load(first + place, mask=inside, other=0.0).to(tl.float32)
        square = tl.load(second + place, mask=inside, other=0.0).to(tl.float32)
        mean += (slope - mean) * (1 - beta1)
        square = square * beta2 + slope * slope * (1 - beta2)
        done = tl.load(step)
        first_share = 1 - tl.exp2(done * log_beta1)
        second_share = 1 - tl.exp2(done * log_beta2)
        moved = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32) * (1 - rate * decay)
        moved -= rate * (mean / first_share) / (tl.sqrt(square / second_share) + epsilon)
        tl.store(first + place, mean.to(first.dtype.element_ty), mask=inside)
        tl.store(second + place, square.to(second.dtype.element_ty), mask=inside)
        tl.store(weight + place, moved.to(weight.dtype.element_ty), mask=inside)
        if COPIED:
            tl.store(copy + place, moved.to(copy.dtype.element_ty), mask=inside)
