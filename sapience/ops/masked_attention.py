"""Attention under a mask, without the work for keys that a whole block of queries may not see.

A causal mask hides half of all pairs, one that keeps packed documents apart nearly all of them in a long row; a fused
kernel that is given a mask computes every pair all the same. On a CPU the queries are taken a block at a time, each with
the stretch of keys that any of them may see: half a row of 4096 tokens in short documents costs a fifth. Not covered:
stretches with holes (the prefix that answers share stands at the row's beginning, so the keys between are computed too),
and kernels of our own on a GPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops import blocked_attention

BLOCK = 256
"""Queries of a block. On two CPU cores 128 to 512 differ by a tenth; a row that is no longer than this is not divided."""


@dataclass(frozen=True)
class AttentionMask:
    """Which keys each query may see."""

    allowed_B1TS: Tensor
    """True where query t may see key s."""
    blocks: tuple[tuple[int, int, int, int], ...] = ()
    """Queries from..to with the keys from..to that any of them may see; empty where all are taken at once."""

    @staticmethod
    def of(allowed_B1TS: Tensor, block: int = BLOCK) -> "AttentionMask":
        """Finds the blocks, on a CPU. Every query must see a key."""
        length = allowed_B1TS.shape[2]
        if allowed_B1TS.device.type != "cpu" or length <= block:
            return AttentionMask(allowed_B1TS)
        blocks = []
        for start in range(0, length, block):
            end = min(start + block, length)
            seen = allowed_B1TS[:, 0, start:end].any(dim=0).any(dim=0).nonzero()
            blocks.append((start, end, int(seen[0]), int(seen[-1]) + 1))
        return AttentionMask(allowed_B1TS, tuple(blocks))

    def first(self, length: int) -> "AttentionMask":
        """The mask of the first `length` positions."""
        cut = ((t, min(t_end, length), s, min(s_end, length)) for t, t_end, s, s_end in self.blocks)
        return AttentionMask(self.allowed_B1TS[..., :length, :length], tuple(b for b in cut if b[0] < b[1]))


def masked_attention(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: AttentionMask, scale: float) -> Tensor:
    """softmax(scale q k^T, hidden pairs left out) v, [B,H,T,d]; the same with blocks as without but for rounding."""
    if not mask.blocks:
        return _attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask.allowed_B1TS, scale=scale)
    mixed = [
        _attention(
            q_BHTd[:, :, t:t_end],
            k_BHSd[:, :, s:s_end],
            v_BHSd[:, :, s:s_end],
            attn_mask=mask.allowed_B1TS[:, :, t:t_end, s:s_end],
            scale=scale,
        )
        for t, t_end, s, s_end in mask.blocks
    ]
    return torch.cat(mixed, dim=2)


def causal_attention(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T, later keys left out) v, [B,H,T,d]."""
    if blocked_attention.fits(q_BHTd):
        return blocked_attention.blocked_attention(q_BHTd, k_BHTd, v_BHTd, scale)
    return _attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True, scale=scale)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """PyTorch's. On a CPU values narrower than keys (as latent attention has them) are filled up for its fused kernel."""
    missing = q.shape[-1] - v.shape[-1]
    if q.device.type != "cpu" or missing <= 0:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=is_causal, scale=scale)
    filled = functional.pad(v, (0, missing))
    mixed = functional.scaled_dot_product_attention(q, k, filled, attn_mask, is_causal=is_causal, scale=scale)
    return mixed[..., : v.shape[-1]]
