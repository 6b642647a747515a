"""Norms and the gate's choice for a few rows, for CUDA.

How such kernels are started: `sapience.ops.decode_launch`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.choice_kernel import within_groups
from sapience.ops.decode_launch import start, wait
from sapience.ops.decode_linear_kernel import Routed

_FEW_PAIRS = 32
"""Of row and expert, of which each is a program's: an expert's matrix that several of them read comes out of the cache."""


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm in front of a product."""

    weight: Tensor
    eps: float


def normed(x_NK: Tensor, norm: Norm, out_NK: Tensor | None = None) -> Tensor:
    """Rows over their root mean square, times the weight."""
    out = torch.empty_like(x_NK) if out_NK is None else out_NK
    _norm(x_NK, None, norm, None, out)
    return out


def summed_normed(x_NK: Tensor, parts_CK: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Rows with their parts [N · choices, K] added, and these normed."""
    total, out = torch.empty_like(x_NK), torch.empty_like(x_NK)
    _norm(x_NK, parts_CK, norm, total, out)
    return total, out


def _norm(x_NK: Tensor, parts_CK: Tensor | None, norm: Norm, total: Tensor | None, out: Tensor) -> None:
    rows, width = x_NK.shape
    start(
        _normed,
        (rows,),
        x_NK,
        x_NK if parts_CK is None else parts_CK,
        norm.weight,
        x_NK if total is None else total,
        out,
        norm.eps,
        x_NK.stride(0),
        out.stride(0),
        width,
        0 if parts_CK is None else parts_CK.shape[0] // rows,
        triton.next_power_of_2(width),
    )


def route(
    logits_N2E: Tensor,
    bias_E: Tensor,
    positions: Tensor,
    choices: int,
    groups: int,
    opened: int,
    counted: int,
    sigmoid: bool,
    normalise: bool,
    factor: float,
    shared: int,
) -> Routed:
    """The gate's choice out of its logits, which come as two parts to be added (V3's report, section 2.1.2).

    Behind the choices come the shared experts, to which every row goes.
    """
    count, experts = logits_N2E.shape[0], bias_E.shape[0]
    pairs = choices + shared
    lists = None
    if count * pairs > _FEW_PAIRS:
        lists = torch.empty((experts + shared, 1 + count), dtype=torch.int32, device=bias_E.device)
    routed = Routed(
        torch.empty((count, pairs), dtype=torch.int32, device=bias_E.device),
        torch.empty((count, pairs), dtype=torch.float32, device=bias_E.device),
        lists,
    )
    start(
        _route,
        (count,),
        logits_N2E,
        bias_E,
        positions,
        routed.experts,
        routed.weights,
        positions.stride(0),
        factor,
        experts // groups,
        groups,
        choices,
        shared,
        triton.next_power_of_2(pairs),
        opened,
        counted,
        sigmoid,
        normalise,
        num_warps=1 if experts <= 128 else 4,
    )
    if lists is not None:
        found = count * pairs
        start(_list, (experts + shared,), routed.experts, lists, found, lists.stride(0), triton.next_power_of_2(found))
    return routed


@triton.jit
def _normed(  # type: ignore[no-untyped-def]
    x, parts, weight, total, out, eps, x_stride, out_stride, width, PARTS: tl.constexpr, WIDTH: tl.constexpr
):
    row, column = tl.program_id(0), tl.arange(0, WIDTH)
    inside = column < width
    wait()
    wide = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if PARTS:
        for part in tl.static_range(PARTS):
            wide += tl.load(parts + (row * PARTS + part) * width + column, mask=inside, other=0.0).to(tl.float32)
        narrow = wide.to(x.dtype.element_ty)
        tl.store(total + row * width + column, narrow, mask=inside)
        wide = narrow.to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide) / width + eps)
    wide *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, wide, mask=inside)


@triton.jit(do_not_specialize=["pairs"])
def _list(chosen, lists, pairs, stride, PAIRS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which pairs of row and choice are an expert's, in order."""
    expert, pair = tl.program_id(0), tl.arange(0, PAIRS)
    wait()
    mine = tl.load(chosen + pair, mask=pair < pairs, other=-1) == expert
    lists += expert * stride
    tl.store(lists + tl.cumsum(mine.to(tl.int32), 0), pair, mask=mine)
    tl.store(lists, tl.sum(mine.to(tl.int32)))


@triton.jit
def _route(  # type: ignore[no-untyped-def]
    logits,
    bias,
    positions,
    chosen,
    weights,
    positions_stride,
    factor,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    CHOICES: tl.constexpr,
    SHARED: tl.constexpr,
    FULL_CHOICES: tl.constexpr,
    OPEN: tl.constexpr,
    COUNTED: tl.constexpr,
    SIGMOID: tl.constexpr,
    NORMALISE: tl.constexpr,
):
    EXPERTS: tl.constexpr = GROUPS * SIZE
    row, expert = tl.program_id(0), tl.arange(0, EXPERTS)
    wait()
    source = logits + row * (2 * EXPERTS) + expert
    affinity = tl.load(source) + tl.load(source + EXPERTS)
    if SIGMOID:
        affinity = tl.sigmoid(affinity)
    else:
        affinity = tl.exp(affinity - tl.max(affinity))
        affinity /= tl.sum(affinity)
    biased = within_groups((affinity + tl.load(bias + expert))[None, :], SIZE, GROUPS, OPEN, COUNTED, 1)
    index = tl.arange(0, FULL_CHOICES)
    best_experts = tl.full((FULL_CHOICES,), -1, tl.int32)
    best_weights = tl.zeros((FULL_CHOICES,), tl.float32)
    for choice in tl.static_range(CHOICES):
        best = tl.sum(tl.argmax(biased, 1), 0)
        best_experts = tl.where(index == choice, best, best_experts)
        best_weights = tl.where(index == choice, tl.sum(tl.where(expert == best, affinity, 0.0)), best_weights)
        biased = tl.where((expert == best)[None, :], float("-inf"), biased)
    if NORMALISE:
        best_weights /= tl.sum(best_weights) + 1e-20
    best_experts = tl.where(index < CHOICES, best_experts, EXPERTS + index - CHOICES)
    best_weights = tl.where(index < CHOICES, best_weights * factor, 1.0)
    somebody = tl.load(positions + row * positions_stride) >= 0
    inside = index < CHOICES + SHARED
    place = row * (CHOICES + SHARED) + index
    tl.store(chosen + place, tl.where(somebody, best_experts, -1), mask=inside)
    tl.store(weights + place, best_weights, mask=inside)
