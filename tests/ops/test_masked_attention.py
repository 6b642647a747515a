"""Attention in blocks of queries against a loop over queries in float64, in value and gradient."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sapience.ops.masked_attention import (
    BLOCK,
    AttentionMask,
    PackedDocuments,
    causal_attention,
    masked_attention,
    most_documents,
)


def by_loop(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    mixed = []
    for t in range(q.shape[2]):
        scores = scale * (k * q[:, :, t : t + 1]).sum(-1)
        weights = scores.masked_fill(~allowed[:, :, t], float("-inf")).softmax(-1)
        mixed.append((weights.unsqueeze(-1) * v).sum(2))
    return torch.stack(mixed, dim=2)


def documents(kind: str, rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind == "one":
        return torch.zeros(rows, length, dtype=torch.int64)
    starts = torch.rand(rows, length, generator=generator) < 0.1
    found = starts.cumsum(1)
    if kind == "padded":
        found[:, length - length // 3 :] = -1
    return found


def allowed_pairs(kind: str, rows: int, length: int) -> Tensor:
    found = documents(kind, rows, length)
    same = found.unsqueeze(2) == found.unsqueeze(1)
    if kind == "prefix":
        same = same | (found == 0).unsqueeze(1)
    return (same & torch.ones(length, length, dtype=torch.bool).tril()).unsqueeze(1)


@pytest.mark.parametrize("kind", ["one", "packed", "padded", "prefix"])
@pytest.mark.parametrize("block", [8, 16, 100])
def test_blocks_compute_the_same(kind: str, block: int) -> None:
    allowed = allowed_pairs(kind, 2, 50)
    mask = AttentionMask.of(allowed, block)
    assert len(mask.blocks) == (0 if block == 100 else -(-50 // block))
    inputs = [torch.randn(2, 3, 50, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    for length in (50, 49, 48):
        ours = masked_attention(*(x[:, :, :length] for x in inputs), mask.first(length), 0.3)
        right = by_loop(*(x[:, :, :length] for x in inputs), allowed[..., :length, :length], 0.3)
        torch.testing.assert_close(ours, right)
        gradients = [
            torch.autograd.grad((out * weights[:, :, :length]).sum(), inputs, retain_graph=True)
            for out in (ours, right)
        ]
        for mine, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("kind", ["one", "packed", "padded"])
def test_packed_documents_are_the_same_mask_without_its_pairs(kind: str) -> None:
    numbers, allowed = documents(kind, 3, 50), allowed_pairs(kind, 3, 50)
    most = most_documents(numbers)
    held = max(len(row.unique()) for row in numbers)
    assert held <= most < 2 * held
    mask = PackedDocuments.of(numbers, most)
    for length in (50, 49, 20, 1):
        cut = mask.first(length)
        assert torch.equal(cut.allowed(), allowed[..., :length, :length])
        begins_and_ends = cut.bounds().tolist()
        row_ends = {length * (row + 1) for row in range(3)}
        assert begins_and_ends == sorted(begins_and_ends) and row_ends <= set(begins_and_ends)
        pieces = [list(range(a, b)) for a, b in pairwise(begins_and_ends) if b > a]
        flat = numbers[:, :length].flatten()
        rows = torch.arange(3).repeat_interleave(length)
        changes = ((flat[1:] != flat[:-1]) | (rows[1:] != rows[:-1])).nonzero().flatten() + 1
        assert [piece[0] for piece in pieces] == [0, *changes.tolist()]
    inputs = [torch.randn(3, 2, 50, 8, dtype=torch.float64) for _ in range(3)]
    torch.testing.assert_close(masked_attention(*inputs, mask, 0.3), by_loop(*inputs, allowed, 0.3))


def test_short_documents_leave_most_pairs_out() -> None:
    length = 4 * BLOCK
    mask = AttentionMask.of(allowed_pairs("packed", 1, length))
    computed = sum((t_end - t) * (s_end - s) for t, t_end, s, s_end in mask.blocks)
    assert len(mask.blocks) == 4
    assert computed < 0.5 * length**2


def test_a_row_of_one_block_is_not_divided() -> None:
    assert AttentionMask.of(allowed_pairs("packed", 1, BLOCK)).blocks == ()


@pytest.mark.parametrize("widths", [(12, 8), (8, 8), (8, 12)])
def test_causal_attention_with_values_narrower_or_wider_than_keys(widths: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 21, widths[0])] * 2 + [(2, 3, 21, widths[1])]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    ours = causal_attention(*inputs, 0.3)
    theirs = by_loop(*inputs, torch.ones(1, 1, 21, 21, dtype=torch.bool).tril(), 0.3)
    slope = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    pairs = zip(torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(theirs, inputs, slope), strict=True)
    assert torch.allclose(ours, theirs, rtol=1e-10)
    assert all(torch.allclose(one, other, rtol=1e-10, atol=1e-12) for one, other in pairs)
