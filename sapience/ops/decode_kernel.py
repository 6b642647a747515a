"""A few rows' step through a transformer layer, for CUDA: what decoding consists of.

With few rows a step takes as long as reading the weights and starting the kernels, so there are few of them: two matrices of
the same rows are one launch, gate and up meet where they are made, experts find their rows themselves, residuals are added
where products end. Weights are float32, bfloat16 or FP8 in blocks of 128 x 128; sums are float32. Rows whose position is
negative stand for nobody.

Meaning: `sapience.inference.network.LatentNetwork`, in value but for rounding. No gradients.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sapience.ops.choice_kernel import within_groups

BLOCK = 64
"""Positions that attention looks at together, at most."""
_DEPTH = 128
"""Numbers of a row that are multiplied at a time; FP8's blocks are as deep."""
_FEW_PAIRS = 32
"""Of row and expert, of which each is a program's: an expert's matrix that several of them read comes out of the cache."""
_SHARED_BYTES = 96 << 10
"""For the tiles that a program has under way: two programs fit on a multiprocessor."""


@dataclass(frozen=True)
class Matrix:
    """[J, K], or a stack of them, as products read it."""

    elements: Tensor
    """Rows may be longer than K, where FP8's blocks are filled up."""
    scales: Tensor | None = None
    """Of FP8's blocks: [J/128, K/128 or more], or a stack."""
    plane: int = 0
    """Rows from gate to up, where both are in one matrix."""

    @property
    def some_scales(self) -> Tensor:
        """The scales, or something in their place that nobody reads."""
        return self.elements if self.scales is None else self.scales

    @property
    def row(self) -> int:
        """Elements from one row to the next."""
        return self.elements.stride(-2)

    @property
    def scales_row(self) -> int:
        """Scales from one row of blocks to the next."""
        return 0 if self.scales is None else self.scales.stride(-2)


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm in front of a product."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Routed:
    """Who goes to which expert."""

    experts: Tensor
    """[N, K] in int32; -1 for a row that is nobody's."""
    weights: Tensor
    """[N, K] in float32."""
    lists: Tensor | None
    """[E, 1 + N] in int32: how many go to an expert, and which of the N · K; None for so few that nobody has to look."""


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


_compiling = False


@contextmanager
def compiling() -> Iterator[None]:
    """Kernels that would be started in here are compiled instead, side by side: one after another they take half a minute."""
    global _compiling
    with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool):
        _compiling = True
        try:
            yield
        finally:
            _compiling = False


def _start(kernel: Any, grid: tuple[int, ...], *inputs: Any, **options: Any) -> None:
    if _compiling:
        kernel.warmup(*inputs, grid=grid, launch_pdl=True, **options)
    else:
        kernel[grid](*inputs, launch_pdl=True, **options)


def linear(x_NK: Tensor, matrix: Matrix, outputs: int, residual_NJ: Tensor | None = None, wide: bool = False) -> Tensor:
    """x matrix^T + residual: [N, J], in float32 if `wide`."""
    out = x_NK.new_empty((x_NK.shape[0], outputs), dtype=torch.float32 if wide else x_NK.dtype)
    _launch(x_NK, matrix, out, residual=residual_NJ)
    return out


def linear_pair(x_NK: Tensor, first: Matrix, second: Matrix, outputs: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x first^T and x second^T."""
    out, more = (x_NK.new_empty((x_NK.shape[0], width)) for width in outputs)
    _launch(x_NK, first, out, second=second, more=more)
    return out, more


def gated(x_NK: Tensor, matrix: Matrix, inner: int) -> Tensor:
    """silu(gate x) · up x: [N, F]."""
    out = x_NK.new_empty((x_NK.shape[0], inner))
    _launch(x_NK, matrix, out, gated=True)
    return out


def experts_gated(x_NK: Tensor, matrices: Matrix, shared: Matrix | None, inner: int, routed: Routed) -> Tensor:
    """`gated` by every expert that a row goes to: [N · choices, F].

    The shared experts are those behind the others, F rows of the shared matrix's gate and up each.
    """
    choices = routed.experts.shape[1]
    out = x_NK.new_empty((routed.experts.numel(), inner))
    rows = 0 if shared is None else inner
    _launch(x_NK, matrices, out, gated=True, routed=routed, copies=choices, second=shared, rows_apart=rows)
    return out


def experts_linear(x_CK: Tensor, matrices: Matrix, shared: Matrix | None, outputs: int, routed: Routed) -> Tensor:
    """What `experts_gated` made, through every expert's second matrix, times the gate's weight: [N · choices, J].

    Of the shared matrix F columns belong to each of the shared experts.
    """
    out = x_CK.new_empty((x_CK.shape[0], outputs))
    _launch(x_CK, matrices, out, routed=routed, weighted=True, second=shared)
    return out


def _launch(
    x: Tensor,
    matrix: Matrix,
    out: Tensor,
    *,
    gated: bool = False,
    residual: Tensor | None = None,
    routed: Routed | None = None,
    copies: int = 1,
    weighted: bool = False,
    second: Matrix | None = None,
    more: Tensor | None = None,
    rows_apart: int = 0,
) -> None:
    """`rows_apart`: from one shared expert to the next; without, they are as many columns apart as x is wide."""
    count, outputs = out.shape
    lists = None if routed is None else routed.lists
    # An expert has few of the rows, a shared one all of them.
    rows = _rows(count if routed is None else 1 if lists is None else lists.shape[1] - 1)
    across = 16 if outputs <= 2048 and routed is None else 32 if outputs <= 8192 else 64
    other = matrix if second is None else second
    width = 0 if more is None else more.shape[1]
    steps = triton.cdiv(x.shape[1], _DEPTH)
    stage = _DEPTH * (rows * x.element_size() + (1 + gated) * across * matrix.elements.element_size())
    stack = matrix.elements.shape[0] if routed is not None else 0
    down = triton.cdiv(count, rows) if routed is None else count if lists is None else lists.shape[0]
    apart, scales_apart = x.shape[1], x.shape[1] // 128
    if rows_apart:
        apart, scales_apart = rows_apart * other.row, rows_apart // 128 * other.scales_row
    _start(
        _linear,
        (triton.cdiv(outputs, across) + triton.cdiv(width, across), down),
        x,
        matrix.elements,
        matrix.some_scales,
        other.elements,
        other.some_scales,
        x if residual is None else residual,
        x if routed is None else routed.experts if lists is None else lists,
        x if routed is None else routed.weights,
        out,
        out if more is None else more,
        count,
        stack,
        matrix.elements.stride(0) if stack else 0,
        matrix.row,
        matrix.some_scales.stride(0) if stack else 0,
        matrix.scales_row,
        matrix.plane,
        apart,
        other.row,
        scales_apart,
        other.scales_row,
        other.plane,
        0 if lists is None else lists.shape[1],
        K=x.shape[1],
        J=outputs,
        MORE=width,
        GATED=gated,
        SCALED=matrix.scales is not None,
        RESIDUAL=residual is not None,
        EXPERTS=0 if routed is None else 1 if lists is None else 2,
        COPIES=copies,
        WEIGHTED=weighted,
        ROWS=rows,
        ACROSS=across,
        DEPTH=_DEPTH,
        num_warps=4,
        num_stages=max(2, min(steps, 8, _SHARED_BYTES // stage)),
    )


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
    _start(
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


def remember(key_value: Tensor, norm: Norm, pages: Pages, query_NQ: Tensor, query_norm: Norm | None) -> None:
    """Norm a row's latent, turn its shared key, and write both into its page; [N, R + P]. Where queries are compressed, their
    latents are normed in place."""
    rank, width = pages.latents.shape[2], pages.rotaries.shape[2]
    compressed = 0 if query_norm is None else query_NQ.shape[1]
    _start(
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
    rows = _rows(count)
    full_rank = max(16, triton.next_power_of_2(rank))
    across = min(64, full_rank)
    _start(
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
    _start(
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
    _start(
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
    _start(
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
        _start(_list, (experts + shared,), routed.experts, lists, found, lists.stride(0), triton.next_power_of_2(found))
    return routed


def _rows(count: int) -> int:
    return 16 if count <= 16 else 32 if count <= 32 else 64


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
def _wait():  # type: ignore[no-untyped-def]
    """Until the kernels before this one are done: it was started while they were at work, as the next one may be now."""
    gdc_wait()
    gdc_launch_dependents()


@triton.jit
def _step(x, weight, k, there, K: tl.constexpr, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """x times the next columns of the weight's rows."""
    tile = tl.load(weight + k, mask=there if EVEN else there & (k < K), other=0.0)
    return tl.dot(x, tl.trans(tile.to(x.dtype)), input_precision="ieee")


@triton.jit(do_not_specialize=["count"])
def _linear(  # type: ignore[no-untyped-def]
    x,
    weight,
    scales,
    second,
    second_scales,
    residual,
    chosen,
    factors,
    out,
    more,
    count,
    experts,
    matrix_stride,
    row_stride,
    scales_matrix_stride,
    scales_stride,
    plane,
    second_stride,
    second_row_stride,
    second_scales_step,
    second_scales_stride,
    second_plane,
    list_stride,
    K: tl.constexpr,
    J: tl.constexpr,
    MORE: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EXPERTS: tl.constexpr,
    COPIES: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
    ACROSS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    EVEN: tl.constexpr = K % DEPTH == 0
    STEPS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    across, down = tl.program_id(0), tl.program_id(1)
    width = J
    if MORE and across >= (J + ACROSS - 1) // ACROSS:
        across -= (J + ACROSS - 1) // ACROSS
        width = MORE
        weight, scales, out = second, second_scales, more
        row_stride, scales_stride = second_row_stride, second_scales_stride
    column = across * ACROSS + tl.arange(0, ACROSS)
    there = (column < width)[:, None]
    begin, end, expert = down * ROWS, down * ROWS + 1, down
    _wait()
    if EXPERTS == 1:
        expert = tl.load(chosen + down)
        begin, end = down, tl.where(expert >= 0, down + 1, down)
        expert = tl.maximum(expert, 0)
    if EXPERTS == 2:
        chosen += down * list_stride
        begin, end = 0, tl.load(chosen)
    if EXPERTS and expert < experts:
        weight += expert.to(tl.int64) * matrix_stride
        scales += expert.to(tl.int64) * scales_matrix_stride
    elif EXPERTS:
        weight = second + (expert - experts) * second_stride
        scales = second_scales + (expert - experts) * second_scales_step
        row_stride, scales_stride, plane = second_row_stride, second_scales_stride, second_plane
    weight += column[:, None].to(tl.int64) * row_stride
    scale = scales + across * ACROSS // 128 * scales_stride
    upper_scale = scale + plane // 128 * scales_stride
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        live = row < (end if EXPERTS else count)
        if EXPERTS == 2:
            row = tl.load(chosen + 1 + row, mask=live, other=0)
        source = x + (row // COPIES)[:, None].to(tl.int64) * K
        total = tl.zeros((ROWS, ACROSS), tl.float32)
        upper = tl.zeros((ROWS, ACROSS), tl.float32)
        factor, upper_factor = 1.0, 1.0
        if SCALED:
            factor, upper_factor = tl.load(scale), tl.load(upper_scale)
        for step in range(STEPS):
            k = (step * DEPTH + tl.arange(0, DEPTH))[None, :]
            tile = tl.load(source + k, mask=live[:, None] if EVEN else live[:, None] & (k < K), other=0.0)
            total += _step(tile, weight, k, there, K, EVEN) * factor
            if GATED:
                upper += _step(tile, weight + plane * row_stride, k, there, K, EVEN) * upper_factor
            if SCALED:
                after = tl.minimum(step + 1, STEPS - 1)
                factor, upper_factor = tl.load(scale + after), tl.load(upper_scale + after)
        if GATED:
            total = total * tl.sigmoid(total) * upper
        if WEIGHTED:
            total *= tl.load(factors + row, mask=live, other=0.0)[:, None]
        inside = live[:, None] & (column < width)[None, :]
        target = row[:, None].to(tl.int64) * width + column[None, :]
        if RESIDUAL:
            total += tl.load(residual + target, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + target, total, mask=inside)


@triton.jit
def _normed(  # type: ignore[no-untyped-def]
    x, parts, weight, total, out, eps, x_stride, out_stride, width, PARTS: tl.constexpr, WIDTH: tl.constexpr
):
    row, column = tl.program_id(0), tl.arange(0, WIDTH)
    inside = column < width
    _wait()
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
    _wait()
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
    _wait()
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
    _wait()
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
    for start in range(split * share, tl.minimum(split * share + share, position + 1), BLOCK):
        s = start + tl.arange(0, BLOCK)
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
    _wait()
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


@triton.jit(do_not_specialize=["pairs"])
def _list(chosen, lists, pairs, stride, PAIRS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which pairs of row and choice are an expert's, in order."""
    expert, pair = tl.program_id(0), tl.arange(0, PAIRS)
    _wait()
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
    _wait()
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
