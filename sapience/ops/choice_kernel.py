"""The gate's choice in one kernel, for CUDA: what takes three sorts and a mask, by repeated maxima in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 4096
"""Affinities that a program holds at a time."""


def fits(experts: int, groups: int) -> bool:
    """Whether the kernel takes these numbers: powers of two."""
    return experts & (experts - 1) == 0 and groups & (groups - 1) == 0 and experts <= _ELEMENTS


@torch.library.custom_op("sapience::best_experts", mutates_args=())
def best_experts(
    affinities_TE: Tensor, bias_E: Tensor, choices: int, groups: int, open_groups: int, counted: int
) -> Tensor:
    """The `choices` best of affinity + bias out of the `open_groups` best groups, best first, int64 [T, choices].

    A group's score is the sum of its `counted` best.
    """
    affinities_TE = affinities_TE.contiguous()
    tokens, experts = affinities_TE.shape
    chosen_TK = torch.empty((tokens, choices), dtype=torch.int64, device=affinities_TE.device)
    rows = max(1, _ELEMENTS // experts)
    _best_experts[(triton.cdiv(tokens, rows),)](
        affinities_TE, bias_E, chosen_TK, tokens, experts // groups, groups, choices, open_groups, counted, rows
    )
    return chosen_TK


@best_experts.register_fake
def _(affinities_TE: Tensor, bias_E: Tensor, choices: int, groups: int, open_groups: int, counted: int) -> Tensor:
    return affinities_TE.new_empty((affinities_TE.shape[0], choices), dtype=torch.int64)


@triton.jit
def within_groups(  # type: ignore[no-untyped-def]
    biased, SIZE: tl.constexpr, GROUPS: tl.constexpr, OPEN: tl.constexpr, COUNTED: tl.constexpr, ROWS: tl.constexpr
):
    """[ROWS, GROUPS · SIZE] with minus infinity outside of each row's best groups."""
    if GROUPS > 1:
        left = tl.reshape(biased, (ROWS, GROUPS, SIZE))
        member = tl.arange(0, SIZE)[None, None, :]
        scores = tl.zeros((ROWS, GROUPS), tl.float32)
        for _ in tl.static_range(COUNTED):
            best = tl.argmax(left, 2)
            scores += tl.max(left, 2)
            left = tl.where(member == best[:, :, None], float("-inf"), left)
        group = tl.arange(0, GROUPS)[None, :]
        opened = tl.zeros((ROWS, GROUPS), tl.int1)
        for _ in tl.static_range(OPEN):
            best = tl.argmax(scores, 1)[:, None]
            opened = opened | (group == best)
            scores = tl.where(group == best, float("-inf"), scores)
        kept = tl.broadcast_to(opened[:, :, None], (ROWS, GROUPS, SIZE))
        biased = tl.where(kept, tl.reshape(biased, (ROWS, GROUPS, SIZE)), float("-inf"))
        biased = tl.reshape(biased, (ROWS, GROUPS * SIZE))
    return biased


@triton.jit
def _best_experts(  # type: ignore[no-untyped-def]
    affinities,
    bias,
    chosen,
    tokens,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    CHOICES: tl.constexpr,
    OPEN: tl.constexpr,
    COUNTED: tl.constexpr,
    ROWS: tl.constexpr,
):
    EXPERTS: tl.constexpr = GROUPS * SIZE
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.arange(0, EXPERTS)
    place = row[:, None].to(tl.int64) * EXPERTS + expert[None, :]
    biased = tl.load(affinities + place, mask=row[:, None] < tokens, other=0.0) + tl.load(bias + expert)[None, :]
    biased = within_groups(biased, SIZE, GROUPS, OPEN, COUNTED, ROWS)
    for choice in tl.static_range(CHOICES):
        best = tl.argmax(biased, 1)
        tl.store(chosen + row.to(tl.int64) * CHOICES + choice, best.to(tl.int64), mask=row < tokens)
        biased = tl.where(expert[None, :] == best[:, None], float("-inf"), biased)
