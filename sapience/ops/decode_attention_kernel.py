"""Absorbed latent attention of a few rows over a cache in pages, for CUDA.

How such kernels are started: `sapience.ops.decode_launch`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.decode_launch import rows_together, start, wait
from sapience.ops.decode_norm_gate_kernel import Norm

BLOCK = 64
"""Positions that attention looks at together, at most."""


@dataclass(frozen=True)
class Pages:
    """Where N rows' latents lie."""

    latents: Tensor
    """[pages, positions of a page, R]."""
    rotaries: Tensor
    """[pages, positions of a page, P]."""
    table: Tensor
    """[N, most pages] in int32; rows may be further apart."""
    positions: Tensor
    """[N] in int32, of the tokens themselves; may be further apart."""
    cosines: Tensor
    """[positions, P/2]; so are the sines."""
    sines: Tensor


def remember(key_value: Tensor, norm: Norm, pages: Pages, query_NQ: Tensor, query_norm: Norm | None) -> None:
    """Norm a row's latent, turn its shared key, and write both into its page; [N, R + P]. Where queries are compressed, their
    latents are normed in place."""
    rank, width = pages.latents.shape[2], pages.rotaries.shape[2]
    compressed = 0 if query_norm is None else query_NQ.shape[1]
    start(
        _remember,
        (key_value.shape[0],),
        key_value,
        norm.weight,
        query_NQ,
        norm.weight if query_norm is None else query_norm.weight,
        norm.eps,
        *_placed(pages),
        rank,
        width,
        compressed,
        triton.next_power_of_2(rank),
        triton.next_power_of_2(width // 2),
        triton.next_power_of_2(compressed),
        pages.latents.shape[1],
    )


def attend(queries: Tensor, up_HdR: Tensor, value: int, scale: float, pages: Pages, splits: int) -> Tensor:
    """Absorbed attention over everything up to a row's own position, [N, H·value].

    queries [N, H, nope + P], their second part not turned yet; up [H, nope + value, R]. A row's positions are shared by
    `splits` programs.
    """
    count, heads = queries.shape[:2]
    rank, width = pages.latents.shape[2], pages.rotaries.shape[2]
    nope = queries.shape[2] - width
    absorbed = queries.new_empty((count, heads, rank))
    mixed = queries.new_empty((count, splits, heads, rank), dtype=torch.float32)
    weights = queries.new_empty((count, splits, heads), dtype=torch.float32)
    out = queries.new_empty((count, heads * value))
    rows = rows_together(count)
    full_rank = max(16, triton.next_power_of_2(rank))
    across = min(64, full_rank)
    start(
        _absorb,
        (heads, triton.cdiv(rank, across), triton.cdiv(count, rows)),
        queries,
        up_HdR,
        absorbed,
        count,
        heads,
        nope,
        width,
        value,
        rank,
        max(16, triton.next_power_of_2(nope)),
        rows,
        across,
    )
    block = 16
    start(
        _attend,
        (count, splits, triton.cdiv(heads, block)),
        absorbed,
        queries,
        mixed,
        weights,
        *_placed(pages),
        splits,
        heads,
        nope,
        scale,
        rank,
        width,
        full_rank,
        max(16, triton.next_power_of_2(width // 2)),
        pages.latents.shape[1],
        block,
        BLOCK if full_rank <= 256 else BLOCK // 2,
        num_warps=4,
    )
    rows = min(rows, 16 if full_rank > 256 else 32)
    across = min(32, max(16, triton.next_power_of_2(value)))
    start(
        _values,
        (heads, triton.cdiv(count, rows), triton.cdiv(value, across)),
        mixed,
        weights,
        up_HdR,
        out,
        count,
        splits,
        heads,
        nope,
        value,
        rank,
        full_rank,
        rows,
        across,
    )
    return out


def _placed(pages: Pages) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    return (
        pages.latents,
        pages.rotaries,
        pages.table,
        pages.positions,
        pages.cosines,
        pages.sines,
        pages.table.stride(0),
        pages.positions.stride(0),
    )


@triton.jit
def _remember(  # type: ignore[no-untyped-def]
    key_value,
    weight,
    query,
    query_weight,
    eps,
    latents,
    rotaries,
    table,
    positions,
    cosines,
    sines,
    table_stride,
    positions_stride,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERY: tl.constexpr,
    FULL_RANK: tl.constexpr,
    FULL_PAIRS: tl.constexpr,
    FULL_QUERY: tl.constexpr,
    PAGE: tl.constexpr,
):
    row = tl.program_id(0)
    wait()
    if QUERY:
        q = tl.arange(0, FULL_QUERY)
        latent = tl.load(query + row * QUERY + q, mask=q < QUERY, other=0.0).to(tl.float32)
        latent *= tl.rsqrt(tl.sum(latent * latent) / QUERY + eps)
        latent *= tl.load(query_weight + q, mask=q < QUERY, other=0.0).to(tl.float32)
        tl.store(query + row * QUERY + q, latent, mask=q < QUERY)
    position = tl.load(positions + row * positions_stride)
    if position >= 0:
        slot = tl.load(table + row * table_stride + position // PAGE).to(tl.int64) * PAGE + position % PAGE
        r, pair = tl.arange(0, FULL_RANK), tl.arange(0, FULL_PAIRS)
        source = key_value + row * (RANK + WIDTH)
        wide = tl.load(source + r, mask=r < RANK, other=0.0).to(tl.float32)
        wide *= tl.rsqrt(tl.sum(wide * wide) / RANK + eps)
        wide *= tl.load(weight + r, mask=r < RANK, other=0.0).to(tl.float32)
        tl.store(latents + slot * RANK + r, wide, mask=r < RANK)
        there = pair < WIDTH // 2
        even = tl.load(source + RANK + 2 * pair, mask=there, other=0.0).to(tl.float32)
        odd = tl.load(source + RANK + 2 * pair + 1, mask=there, other=0.0).to(tl.float32)
        cosine = tl.load(cosines + position * (WIDTH // 2) + pair, mask=there, other=0.0)
        sine = tl.load(sines + position * (WIDTH // 2) + pair, mask=there, other=0.0)
        target = rotaries + slot * WIDTH + 2 * pair
        tl.store(target, even * cosine - odd * sine, mask=there)
        tl.store(target + 1, even * sine + odd * cosine, mask=there)


@triton.jit(do_not_specialize=["count"])
def _absorb(  # type: ignore[no-untyped-def]
    queries,
    up,
    absorbed,
    count,
    heads,
    NOPE: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE: tl.constexpr,
    RANK: tl.constexpr,
    FULL_NOPE: tl.constexpr,
    ROWS: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """Queries times the keys' matrix of their head."""
    head = tl.program_id(0)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    d, r = tl.arange(0, FULL_NOPE), tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    place = row[:, None].to(tl.int64) * heads + head
    live = (row < count)[:, None]
    wait()
    query = tl.load(queries + place * (NOPE + WIDTH) + d[None, :], mask=live & (d < NOPE)[None, :], other=0.0)
    matrix = up + head * ((NOPE + VALUE) * RANK) + d[:, None] * RANK + r[None, :]
    keys = tl.load(matrix, mask=(d < NOPE)[:, None] & (r < RANK)[None, :], other=0.0).to(query.dtype)
    result = tl.dot(query, keys, input_precision="ieee")
    tl.store(absorbed + place * RANK + r[None, :], result, mask=live & (r < RANK)[None, :])


@triton.jit(do_not_specialize=["splits"])
def _attend(  # type: ignore[no-untyped-def]
    absorbed,
    queries,
    mixed,
    weights,
    latents,
    rotaries,
    table,
    positions,
    cosines,
    sines,
    table_stride,
    positions_stride,
    splits,
    heads,
    nope,
    scale,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    FULL_RANK: tl.constexpr,
    FULL_PAIRS: tl.constexpr,
    PAGE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A part of the positions, by every head: the mean of their latents, and the logarithm of what it was divided by."""
    row, split = tl.program_id(0), tl.program_id(1)
    head = tl.program_id(2) * HEADS + tl.arange(0, HEADS)
    r, pair = tl.arange(0, FULL_RANK), tl.arange(0, FULL_PAIRS)
    live, ranked, paired = (head < heads)[:, None], r < RANK, pair < WIDTH // 2
    wait()
    position = tl.load(positions + row * positions_stride)
    place = row.to(tl.int64) * heads + head
    query = tl.load(absorbed + place[:, None] * RANK + r[None, :], mask=live & ranked[None, :], other=0.0)
    source = queries + place[:, None] * (nope + WIDTH) + nope + 2 * pair[None, :]
    even = tl.load(source, mask=live & paired[None, :], other=0.0).to(tl.float32)
    odd = tl.load(source + 1, mask=live & paired[None, :], other=0.0).to(tl.float32)
    angle = tl.maximum(position, 0) * (WIDTH // 2) + pair
    cosine = tl.load(cosines + angle, mask=paired, other=0.0)[None, :]
    sine = tl.load(sines + angle, mask=paired, other=0.0)[None, :]
    turned_even = (even * cosine - odd * sine).to(query.dtype)
    turned_odd = (even * sine + odd * cosine).to(query.dtype)
    blocks = (position + BLOCK) // BLOCK
    share = (blocks + splits - 1) // splits * BLOCK
    largest = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    sums = tl.zeros((HEADS, FULL_RANK), tl.float32)
    for first in range(split * share, tl.minimum(split * share + share, position + 1), BLOCK):
        s = first + tl.arange(0, BLOCK)
        seen = s <= position
        page = tl.load(table + row * table_stride + s // PAGE, mask=seen, other=0)
        slot = (page.to(tl.int64) * PAGE + s % PAGE)[:, None]
        latent = tl.load(latents + slot * RANK + r[None, :], mask=seen[:, None] & ranked[None, :], other=0.0)
        shared = rotaries + slot * WIDTH + 2 * pair[None, :]
        key_even = tl.load(shared, mask=seen[:, None] & paired[None, :], other=0.0)
        key_odd = tl.load(shared + 1, mask=seen[:, None] & paired[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(latent), input_precision="ieee")
        scores += tl.dot(turned_even, tl.trans(key_even), input_precision="ieee")
        scores += tl.dot(turned_odd, tl.trans(key_odd), input_precision="ieee")
        scores = tl.where(seen[None, :], scores * scale, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, 1))
        chance = tl.exp(scores - above[:, None])
        fade = tl.exp(largest - above)
        total = total * fade + tl.sum(chance, 1)
        sums = sums * fade[:, None] + tl.dot(chance.to(latent.dtype), latent, input_precision="ieee")
        largest = above
    target = (row.to(tl.int64) * splits + split) * heads + head
    some = total > 0
    sums = sums / tl.where(some, total, 1.0)[:, None]
    tl.store(mixed + target[:, None] * RANK + r[None, :], sums, mask=live & ranked[None, :])
    tl.store(weights + target, tl.where(some, largest + tl.log(total), float("-inf")), mask=head < heads)


@triton.jit(do_not_specialize=["count", "splits"])
def _values(  # type: ignore[no-untyped-def]
    mixed,
    weights,
    up,
    out,
    count,
    splits,
    heads,
    NOPE: tl.constexpr,
    VALUE: tl.constexpr,
    RANK: tl.constexpr,
    FULL_RANK: tl.constexpr,
    ROWS: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """The parts' means put together, times the values' matrix of their head."""
    head = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    r, v = tl.arange(0, FULL_RANK), tl.program_id(2) * ACROSS + tl.arange(0, ACROSS)
    live = row < count
    wait()
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, FULL_RANK), tl.float32)
    for split in range(splits):
        place = (row.to(tl.int64) * splits + split) * heads + head
        weight = tl.load(weights + place, mask=live, other=float("-inf"))
        part = tl.load(mixed + place[:, None] * RANK + r[None, :], mask=live[:, None] & (r < RANK)[None, :], other=0.0)
        above = tl.maximum(largest, weight)
        fade = tl.where(largest > float("-inf"), tl.exp(largest - above), 0.0)
        share = tl.where(weight > float("-inf"), tl.exp(weight - above), 0.0)
        total = total * fade + share
        sums = sums * fade[:, None] + part * share[:, None]
        largest = above
    sums = sums / tl.where(total > 0, total, 1.0)[:, None]
    matrix = up + (head * (NOPE + VALUE) + NOPE + v)[:, None] * RANK + r[None, :]
    values = tl.load(matrix, mask=(v < VALUE)[:, None] & (r < RANK)[None, :], other=0.0).to(out.dtype.element_ty)
    result = tl.dot(sums.to(out.dtype.element_ty), tl.trans(values), input_precision="ieee")
    target = (row[:, None].to(tl.int64) * heads + head) * VALUE + v[None, :]
    tl.store(out + target, result, mask=live[:, None] & (v < VALUE)[None, :])
