"""Attention under a mask, without the work for keys that a whole block of queries may not see.

A causal mask hides half of all pairs, one that keeps packed documents apart nearly all of them in a long row; a fused
kernel that is given a mask computes every pair all the same. On a CPU the queries are taken a block at a time, each with
the stretch of keys that any of them may see: half a row of 4096 tokens in short documents costs a fifth. On a GPU packed
documents go to its flash attention as sequences of their own, so that no mask is ever written down: at 32,768 tokens it
would take 2 GiB a layer and row. Not covered: stretches with holes (the prefix that answers share stands at the row's
beginning, so the keys between are computed too).
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


@dataclass(frozen=True)
class PackedDocuments:
    """The mask of documents that stand one after another in each row and do not see each other."""

    ends_BS: Tensor
    """int32: where in its row each document ends; the row's length where it has fewer than S. Padding is one more document."""
    length: int
    """Positions of a row."""

    @staticmethod
    def of(documents_BT: Tensor, most: int) -> "PackedDocuments":
        """From the number of each position's document, of which no row holds more than `most`."""
        rows, length = documents_BT.shape
        begins = documents_BT[:, 1:] != documents_BT[:, :-1]
        numbers_BT = functional.pad(begins.cumsum(1), (1, 0))
        places = torch.arange(1, length + 1, dtype=torch.int32, device=documents_BT.device).expand(rows, -1)
        ends_BS = torch.zeros(rows, most, dtype=torch.int32, device=documents_BT.device)
        ends_BS.scatter_reduce_(1, numbers_BT, places, "amax")
        return PackedDocuments(ends_BS.masked_fill(ends_BS == 0, length), length)

    def first(self, length: int) -> "PackedDocuments":
        """The mask of the first `length` positions."""
        return PackedDocuments(self.ends_BS.clamp(max=length), length)

    def bounds(self) -> Tensor:
        """[B·S+1] int32: where documents begin and end in all rows one after another."""
        before_B = torch.arange(len(self.ends_BS), dtype=torch.int32, device=self.ends_BS.device) * self.length
        return functional.pad((self.ends_BS + before_B.unsqueeze(1)).flatten(), (1, 0))

    def allowed(self) -> Tensor:
        """[B,1,T,T]: True where query t may see key s."""
        places_T = torch.arange(self.length, device=self.ends_BS.device)
        numbers_BT = (self.ends_BS.unsqueeze(1) <= places_T.unsqueeze(1)).sum(-1)
        same = numbers_BT.unsqueeze(2) == numbers_BT.unsqueeze(1)
        return (same & (places_T <= places_T.unsqueeze(1))).unsqueeze(1)


@dataclass(frozen=True)
class CausalStretches:
    """Causality, for queries that are some stretches of a row whose keys are all there."""

    stretches: tuple[tuple[int, int, int], ...]
    """(from, to, end): queries that follow one another, and the place in the row behind the last of them."""

    def first(self, length: int) -> "CausalStretches":
        """The mask of the first `length` queries."""
        cut = ((t, min(t_end, length), end - max(0, t_end - length)) for t, t_end, end in self.stretches)
        return CausalStretches(tuple(each for each in cut if each[0] < each[1]))


Mask = AttentionMask | PackedDocuments | CausalStretches


def most_documents(documents_BT: Tensor) -> int:
    """Of any row, rounded up to a power of two, so that masks have few shapes. Waits for a GPU that holds them."""
    most = int((documents_BT[:, 1:] != documents_BT[:, :-1]).sum(1).max()) + 1
    return 1 << (most - 1).bit_length()


def masked_attention(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Mask, scale: float) -> Tensor:
    """softmax(scale q k^T, hidden pairs left out) v, [B,H,T,d]; however it is computed, the same but for rounding."""
    if isinstance(mask, CausalStretches):
        mixed = [
            _late_attention(q_BHTd[:, :, t:t_end], k_BHSd[:, :, :end], v_BHSd[:, :, :end], scale)
            for t, t_end, end in mask.stretches
        ]
        return torch.cat(mixed, dim=2)
    if isinstance(mask, PackedDocuments):
        if _fits_flash(q_BHTd):
            return _flash_attention(q_BHTd, k_BHSd, v_BHSd, mask, scale)
        return _attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask.allowed(), scale=scale)
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


def _late_attention(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, scale: float) -> Tensor:
    """Causal attention of queries that are the last places of the keys' row."""
    queries, keys = q_BHTd.shape[2], k_BHSd.shape[2]
    if q_BHTd.is_cuda:
        from torch.nn.attention.bias import (
            causal_lower_right,  # brings PyTorch's compiler, which takes a second to import
        )

        return _attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=causal_lower_right(queries, keys), scale=scale)
    allowed_TS = torch.ones(queries, keys, dtype=torch.bool, device=q_BHTd.device).tril(keys - queries)
    return _attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=allowed_TS, scale=scale)


def _fits_flash(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, scale: float) -> Tensor:
    """PyTorch's for sequences of any lengths in one row; values narrower than keys are filled up."""
    rows, heads, length, _ = q.shape
    width = v.shape[-1]
    filled = functional.pad(v, (0, q.shape[-1] - width))
    bounds = mask.bounds()
    flat = [x.transpose(1, 2).reshape(rows * length, heads, -1) for x in (q, k, filled)]
    mixed: Tensor = torch.ops.aten._flash_attention_forward(
        *flat, bounds, bounds, length, length, 0.0, True, False, scale=scale
    )[0]
    return mixed[..., :width].unflatten(0, (rows, length)).transpose(1, 2)


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
