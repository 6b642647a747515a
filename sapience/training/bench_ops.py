"""How fast single operations of a model's step are here, each beside what the machine's matrix product reaches.

Forward operations alone, and forward with backward where the name says so; random numbers, sizes of one step of the shape.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapience.model.linear import Precision
from sapience.ops import fp8_blocks, fp8_products, fp8_swiglu, fp8_tiles
from sapience.ops.cross_entropy import linear_cross_entropy
from sapience.ops.experts import ExpertWeights, routed_experts
from sapience.ops.fp8_layers import fp8_experts
from sapience.ops.fp8_products import groups_of
from sapience.ops.grouped import grouped_data_gradient, grouped_linear, grouped_weight_gradient
from sapience.ops.permutation import expert_order
from sapience.recipe.model import ModelSection
from sapience.training.bench import ceiling_gflops
from sapience.training.device import choose_device

_LEAST_SECONDS = 0.2
"""Of a measurement; an operation is repeated that long."""


@dataclass(frozen=True)
class Operation:
    """Something to be timed."""

    name: str
    run: Callable[[], Any]
    operations: float = 0.0
    """Floating-point operations of a call; zero where moving bytes is the work."""
    moved: float = 0.0
    """Bytes that have to be read and written."""


@dataclass(frozen=True)
class Sizes:
    """A shape's sizes and where its numbers lie."""

    model: ModelSection
    tokens: int
    length: int
    device: torch.device
    number: torch.dtype

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers of the shape's type."""
        return (torch.randn(shape, device=self.device) * scale).to(self.number)


def operations_of(
    model: ModelSection, tokens: int, length: int, precision: Precision, device: str
) -> Iterator[Operation]:
    """What a step of these sizes consists of, made when asked for and given up after."""
    number = torch.float32 if precision == "fp32" else torch.bfloat16
    sizes = Sizes(model, tokens, length, choose_device(device), number)
    yield from _linear(sizes)
    yield from _attention(sizes)
    yield from _experts(sizes)
    yield from _cross_entropy(sizes)
    if precision == "fp8":
        yield from _fp8_linear(sizes)
        yield from _fp8_experts(sizes)


def timed_operation(operation: Operation, ceiling: float, device: torch.device) -> dict[str, Any]:
    """The figures of one operation: the median of five measurements."""

    def seconds(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            operation.run()
        _wait(device)
        return (time.perf_counter() - began) / times

    seconds(2)
    times = max(1, round(_LEAST_SECONDS / 5 / seconds(2)))
    median = statistics.median(seconds(times) for _ in range(5))
    gflops = operation.operations / median / 1e9
    return {
        "what": "ops", "system": "sapience", "op": operation.name, "ms": round(1e3 * median, 4),
        "gflops": round(gflops, 1) if gflops else None, "of_ceiling": round(gflops / ceiling, 4) if gflops else None,
        "gbytes_per_s": round(operation.moved / median / 1e9, 1) if operation.moved else None,
        "ceiling_gflops": round(ceiling, 1),
    }  # fmt: skip


def operation_ceiling(precision: Precision, device: torch.device) -> float:
    """GFLOP/s of a large square product in the type that the precision's plain products have."""
    return ceiling_gflops(torch.float32 if precision == "fp32" else torch.bfloat16, device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _linear(sizes: Sizes) -> Iterator[Operation]:
    width, inner = sizes.model.hidden_size, 2 * sizes.model.intermediate_size
    x, weight = sizes.random(sizes.tokens, width), sizes.random(inner, width, scale=0.02)
    slope = sizes.random(sizes.tokens, inner)
    count = 2.0 * sizes.tokens * width * inner
    yield Operation("linear", lambda: functional.linear(x, weight), count)
    yield Operation("linear, input's gradient", lambda: slope @ weight, count)
    yield Operation("linear, weight's gradient", lambda: slope.t() @ x, count)


def _attention(sizes: Sizes) -> Iterator[Operation]:
    model, rows = sizes.model, sizes.tokens // sizes.length
    heads = model.num_attention_heads
    query, key = (sizes.random(rows, heads, sizes.length, model.qk_head_dim).requires_grad_() for _ in range(2))
    value = sizes.random(rows, heads, sizes.length, model.v_head_dim).requires_grad_()
    slope = torch.ones_like(value)
    count = rows * heads * sizes.length**2 * float(model.qk_head_dim + model.v_head_dim)

    def forward() -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def both() -> None:
        torch.autograd.grad(forward(), (query, key, value), slope)

    with torch.no_grad():
        yield Operation("attention", forward, count)
    with torch.enable_grad():
        yield Operation("attention, forward and backward", both, 3.5 * count)


def _routing(sizes: Sizes) -> Tensor:
    model = sizes.model
    drawn = torch.rand(sizes.tokens, model.n_routed_experts, device=sizes.device)
    return drawn.topk(model.num_experts_per_tok).indices


def _experts(sizes: Sizes) -> Iterator[Operation]:
    model = sizes.model
    experts, width, inner = model.n_routed_experts, model.hidden_size, model.moe_intermediate_size
    order = expert_order(_routing(sizes), experts)
    rows = order.order_N.numel()
    x, slope = sizes.random(rows, width), sizes.random(rows, 2 * inner)
    gate_up, down = sizes.random(experts, 2 * inner, width, scale=0.02), sizes.random(experts, width, inner, scale=0.02)
    counts, count = order.counts_E, 4.0 * rows * width * inner
    yield Operation("experts' product", lambda: grouped_linear(x, gate_up, counts), count)
    yield Operation("experts' product, input's gradient", lambda: grouped_data_gradient(slope, gate_up, counts), count)
    yield Operation("experts' product, weights' gradient", lambda: grouped_weight_gradient(slope, x, counts), count)
    tokens = sizes.random(sizes.tokens, width).requires_grad_()
    weights = torch.rand(rows, device=sizes.device)
    leaves = gate_up.requires_grad_(), down.requires_grad_()
    matrices = ExpertWeights(*leaves, *leaves)
    direction = sizes.random(sizes.tokens, width)

    def both() -> None:
        torch.autograd.grad(routed_experts(tokens, weights, matrices, order), (tokens, *leaves), direction)

    yield Operation("experts, forward and backward", both, 4.5 * count)


def _cross_entropy(sizes: Sizes) -> Iterator[Operation]:
    width, vocabulary = sizes.model.hidden_size, sizes.model.vocab_size
    hidden = sizes.random(sizes.tokens, width).requires_grad_()
    head = sizes.random(vocabulary, width, scale=0.02).requires_grad_()
    labels = torch.randint(vocabulary, (sizes.tokens,), device=sizes.device)

    def both() -> None:
        torch.autograd.grad(linear_cross_entropy(hidden, head, labels), (hidden, head))

    yield Operation("cross-entropy, forward and backward", both, 6.0 * sizes.tokens * width * vocabulary)


def _fp8_linear(sizes: Sizes) -> Iterator[Operation]:
    width, inner = sizes.model.hidden_size, sizes.model.intermediate_size
    blocks = fp8_tiles.quantize_weight(sizes.random(2, inner, width, scale=0.02), planes=2)
    x, slope = sizes.random(sizes.tokens, width), sizes.random(sizes.tokens, blocks.elements.shape[1])
    yield Operation("fp8 tiles", lambda: fp8_tiles.quantize_rows(slope), moved=3.0 * slope.numel())
    yield Operation("fp8 tiles both ways", lambda: fp8_tiles.quantize_both(slope), moved=4.0 * slope.numel())
    (tiles, columns), (slopes, slope_columns) = fp8_tiles.quantize_both(x), fp8_tiles.quantize_both(slope)
    yield Operation("fp8 tiles turned", lambda: fp8_tiles.turn(slopes), moved=2.0 * slope.numel())
    products = fp8_products.product(tiles, blocks.elements[0], blocks.scales[0])
    yield Operation("fp8 SwiGLU", lambda: fp8_swiglu.swiglu_tiles(products, None), moved=3.5 * products.numel())
    kept = fp8_swiglu.swiglu_tiles(products, None)[1]
    half = sizes.random(products.shape[0], products.shape[1] // 2)
    yield Operation(
        "fp8 SwiGLU's gradient",
        lambda: fp8_swiglu.swiglu_gradient_tiles(kept, half, None),
        moved=4.5 * products.numel(),
    )
    count = 4.0 * sizes.tokens * width * inner
    yield Operation("fp8 linear", lambda: fp8_products.product(tiles, blocks.elements[0], blocks.scales[0]), count)
    yield Operation(
        "fp8 linear, input's gradient",
        lambda: fp8_products.product(slopes, blocks.turned[0], blocks.turned_scales[0]),
        count,
    )
    yield Operation("fp8 linear, weight's gradient", lambda: fp8_products.weight_product(slope_columns, columns), count)


def _fp8_experts(sizes: Sizes) -> Iterator[Operation]:
    model = sizes.model
    experts, width, inner = model.n_routed_experts, model.hidden_size, model.moe_intermediate_size
    order = expert_order(_routing(sizes), experts, fp8_blocks.BLOCK)
    rows = order.order_N.numel()
    groups = groups_of(order.counts_E, rows)
    gate_up, down = sizes.random(experts, 2 * inner, width, scale=0.02), sizes.random(experts, width, inner, scale=0.02)
    blocks = (
        fp8_tiles.quantize_weight(gate_up.view(2 * experts, inner, width), planes=2),
        fp8_tiles.quantize_weight(down),
    )
    (tiles, columns), (slopes, slope_columns) = (
        fp8_tiles.quantize_both(sizes.random(rows, columns)) for columns in (width, blocks[0].elements.shape[1])
    )
    count = 4.0 * sizes.tokens * model.num_experts_per_tok * width * inner
    yield Operation(
        "fp8 experts' product",
        lambda: fp8_products.grouped_product(tiles, blocks[0].elements, blocks[0].scales, groups),
        count,
    )
    yield Operation(
        "fp8 experts' product, input's gradient",
        lambda: fp8_products.grouped_product(slopes, blocks[0].turned, blocks[0].turned_scales, groups),
        count,
    )
    yield Operation(
        "fp8 experts' product, weights' gradient",
        lambda: fp8_products.grouped_weight_product(slope_columns, columns, groups),
        count,
    )
    tokens = sizes.random(sizes.tokens, width).requires_grad_()
    weights = torch.rand(rows, device=sizes.device)
    leaves = gate_up.requires_grad_(), down.requires_grad_()
    direction = sizes.random(sizes.tokens, width)

    def both() -> None:
        mixed = fp8_experts(tokens, weights, *leaves, *blocks, order)
        torch.autograd.grad(mixed, (tokens, *leaves), direction)

    yield Operation("fp8 experts, forward and backward", both, 4.5 * count)
