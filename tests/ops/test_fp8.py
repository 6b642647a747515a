"""FP8 tiles, products and layers in plain PyTorch, which is what the kernels on a GPU are held against."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sapience.ops import fp8_blocks, fp8_products, fp8_tiles
from sapience.ops.experts import ExpertWeights, routed_experts, swiglu
from sapience.ops.fp8_layers import fp8_experts, fp8_feed_forward, fp8_linear, fp8_two_linears
from sapience.ops.fp8_swiglu import gradient_reference, reference
from sapience.ops.permutation import expert_order, sort_weights


def outliers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers in float32, one column and one row of which are much larger."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., shape[-1] // 3] *= 60
    x[..., shape[-2] // 2, :] *= 30
    return x


def difference(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.detach().double(), y.detach().double()
    return float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum()))


@settings(max_examples=300, deadline=None)
@given(st.floats(2.0**-90, 2.0**100, width=32))
def test_a_scale_is_the_smallest_power_of_two_that_fits(largest: float) -> None:
    scale = float(fp8_blocks.scale_of(torch.tensor([largest])))
    assert scale == 2.0 ** round(torch.tensor(scale).log2().item())
    assert largest / scale <= fp8_blocks.ROUNDS_TO_LARGEST < largest / (scale / 2)
    assert float(torch.tensor(largest / scale).clamp(max=448).to(torch.float8_e4m3fn)) <= 448


@pytest.mark.parametrize("shape", [(1, 1), (3, 130), (128, 128), (200, 72)])
def test_tiles_hold_three_significant_bits_of_every_number_in_range(shape: tuple[int, int]) -> None:
    x = outliers(*shape)
    wide = fp8_tiles.dequantized(fp8_tiles.rows_reference(x))
    assert wide.shape == (fp8_tiles.rounded_up(shape[0]), fp8_tiles.rounded_up(shape[1]))
    assert not wide[shape[0] :].any() and not wide[:, shape[1] :].any()
    inside = wide[: shape[0], : shape[1]]
    largest = torch.stack([part.abs().amax(1) for part in x.split(128, 1)], 1).repeat_interleave(128, 1)[:, : shape[1]]
    assert ((inside - x).abs() <= (x.abs() / 16).clamp(min=0) + largest / 448 * 2.0**-9).all()


def test_turned_tiles_keep_their_bits_where_no_number_falls_below_the_range() -> None:
    """Powers of two as scales: what has been quantized along one side is quantized along the other without another error."""
    x = torch.randn(256, 384, generator=torch.Generator().manual_seed(0)).abs() + 0.1
    rows = fp8_tiles.rows_reference(x)
    assert torch.equal(fp8_tiles.dequantized(fp8_tiles.turned_reference(rows)).t(), fp8_tiles.dequantized(rows))


def test_rows_are_gathered_and_turned_with_nothing_for_an_index_beyond_the_last() -> None:
    x = outliers(128, 256)
    rows = fp8_tiles.rows_reference(x)
    chosen = torch.tensor([5, 5, 128, 0, 300, 127] + [9] * 122)
    expected = torch.cat((fp8_tiles.dequantized(rows), torch.zeros(300, 256)))[chosen]
    assert torch.equal(fp8_tiles.dequantized(fp8_tiles.gather(rows, chosen)), expected)
    turned = fp8_tiles.dequantized(fp8_tiles.turn(rows, chosen)).t()
    assert torch.equal(turned, fp8_tiles.dequantized(fp8_tiles.columns_reference(expected)).t())


@pytest.mark.parametrize("shape", [(128, 128), (300, 200)])
def test_blocks_of_a_weight_are_those_of_a_released_checkpoint(shape: tuple[int, int]) -> None:
    """The same elements and scales as in the files, filled up; and turned, the same numbers."""
    weight = outliers(*shape)
    elements, scale = fp8_blocks.quantize_blocks(weight)
    made = fp8_tiles.weight_reference(weight.unsqueeze(0))
    assert torch.equal(made.elements[0, : shape[0], : shape[1]].float(), elements.float())
    assert torch.equal(made.scales[0, :, : scale.shape[1]], scale)
    wide = fp8_tiles.weight_dequantized(made.elements, made.scales)
    assert torch.equal(fp8_tiles.weight_dequantized(made.turned, made.turned_scales), wide.mT)


def test_planes_of_a_weight_are_filled_up_each_by_itself() -> None:
    weight = outliers(4, 72, 100)
    made = fp8_tiles.weight_reference(weight, planes=2)
    wide = fp8_tiles.weight_dequantized(made.elements, made.scales)
    assert wide.shape == (2, 256, 128)
    for matrix in range(4):
        plane = wide[matrix // 2, (matrix % 2) * 128 :][:128]
        alone = fp8_tiles.weight_reference(weight[matrix : matrix + 1])
        assert torch.equal(plane, fp8_tiles.weight_dequantized(alone.elements, alone.scales)[0])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_makes_a_product_that_is_not(number: float) -> None:
    x = outliers(4, 256)
    x[2, 7] = number
    weight = fp8_tiles.weight_reference(outliers(1, 128, 256))
    result = fp8_products.product(fp8_tiles.rows_reference(x), weight.elements[0], weight.scales[0])
    assert not result[2].isfinite().all() and result[[0, 1, 3]].isfinite().all()


def test_groups_are_told_from_counts() -> None:
    groups = fp8_products.groups_of(torch.tensor([0, 256, 0, 128]), 640)
    assert groups.matrix_B.tolist() == [1, 1, 3, -1, -1]
    assert groups.first_E.tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize(
    ("shape", "outputs", "tolerance"), [((256, 128), 384, 1e-3), ((2, 75, 200), 72, 1e-3), ((3, 130), 70, 3e-3)]
)
def test_linear_layer(shape: tuple[int, ...], outputs: int, tolerance: float) -> None:
    """Value and both gradients within FP8's error of float32's (of three rows, where one is nearly all, chance is more);
    exactly float32's products of the quantized values."""
    x = outliers(*shape) if len(shape) == 2 else outliers(*shape[1:]).expand(shape).clone()
    weight = outliers(outputs, shape[-1], seed=1) * 0.05
    slope = torch.randn(*shape[:-1], outputs, generator=torch.Generator().manual_seed(2)).bfloat16()
    inputs = [x.bfloat16().requires_grad_(), weight.requires_grad_()]
    ours = fp8_linear(*inputs, fp8_tiles.quantize_weight(weight.detach().unsqueeze(0)))
    found = torch.autograd.grad(ours, inputs, slope)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    theirs = functional.linear(*exact)
    expected = torch.autograd.grad(theirs, exact, slope.float())
    assert [ours.dtype, *(one.dtype for one in found)] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for one, other in zip((ours, *found), (theirs, *expected), strict=True):
        assert one.shape == other.shape
        assert difference(one, other) < tolerance
    rows = fp8_tiles.dequantized(fp8_tiles.rows_reference(inputs[0].detach().reshape(-1, shape[-1])))
    blocks = fp8_tiles.weight_reference(weight.detach().unsqueeze(0))
    emulated = rows @ fp8_tiles.weight_dequantized(blocks.elements, blocks.scales)[0].t()
    count = x.numel() // shape[-1]
    assert torch.equal(ours.reshape(count, -1), emulated[:count, :outputs].bfloat16())


@pytest.mark.parametrize("shape", [(256, 128), (2, 75, 200)])
def test_two_linear_layers_of_the_same_rows(shape: tuple[int, ...]) -> None:
    """What each gives alone, to the bit; the gradients of x added in its type."""
    x = outliers(*shape) if len(shape) == 2 else outliers(*shape[1:]).expand(shape).clone()
    matrices = [(outliers(width, shape[-1], seed=width) * 0.05).requires_grad_() for width in (72, 384)]
    blocks = [fp8_tiles.quantize_weight(matrix.detach().unsqueeze(0)) for matrix in matrices]
    generator = torch.Generator().manual_seed(3)
    slopes = [torch.randn(*shape[:-1], len(matrix), generator=generator).bfloat16() for matrix in matrices]
    inputs = [x.bfloat16().requires_grad_(), *matrices]
    together = fp8_two_linears(inputs[0], matrices[0], blocks[0], matrices[1], blocks[1])
    apart = [fp8_linear(inputs[0], *pair) for pair in zip(matrices, blocks, strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    ours, theirs = (torch.autograd.grad(results, inputs, slopes) for results in (together, apart))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_products_of_experts_leave_sums_of_their_squares() -> None:
    """As long as nobody has touched the result: not added to it, copied it or taken a part."""
    groups = fp8_products.groups_of(torch.tensor([128, 0, 256]), 512)
    factors = [fp8_tiles.columns_reference(outliers(512, width, seed=width)) for width in (256, 384)]
    gradient = fp8_products.grouped_weight_product(*factors, groups)
    squares = fp8_products.squares_of(gradient)
    assert squares is not None
    assert torch.allclose(squares.double().sum(), gradient.double().square().sum(), rtol=1e-6)
    for other in (gradient.clone(), gradient[:2], gradient.flatten()[1:], gradient.mT, torch.zeros(3)):
        assert fp8_products.squares_of(other) is None
    gradient += 1
    assert fp8_products.squares_of(gradient) is None


def test_tiles_made_before_serve_as_well() -> None:
    """Those of a norm's result: the layers give the same bits, and need not read that result."""
    hidden, weight = outliers(150, 200).bfloat16(), torch.rand(200) + 0.5
    normed = torch.nn.functional.rms_norm(hidden.float(), (200,), weight, 1e-6).bfloat16()
    tiles = fp8_tiles.quantize_normed(hidden, weight, 1e-6)
    gate_up, down = outliers(144, 200, seed=1) * 0.02, outliers(200, 72, seed=2) * 0.02
    blocks = fp8_tiles.quantize_weight(gate_up.view(2, 72, 200), 2), fp8_tiles.quantize_weight(down.unsqueeze(0))
    unread = torch.full_like(normed, torch.nan)
    ours, theirs = (
        fp8_feed_forward(unread, gate_up, down, *blocks, tiles),
        fp8_feed_forward(normed, gate_up, down, *blocks),
    )
    assert torch.equal(ours, theirs)
    two = [(outliers(width, 200, seed=width) * 0.05) for width in (72, 384)]
    pairs = [part for matrix in two for part in (matrix, fp8_tiles.quantize_weight(matrix.unsqueeze(0)))]
    ours, theirs = fp8_two_linears(unread, *pairs, tiles), fp8_two_linears(normed, *pairs)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    order = expert_order(torch.zeros(150, 1, dtype=torch.int64), 1, 128)
    stacked = gate_up.unsqueeze(0), down.unsqueeze(0), *blocks, order
    weights = sort_weights(torch.ones(150, 1), order)
    ours, theirs = fp8_experts(unread, weights, *stacked, tiles), fp8_experts(normed, weights, *stacked)
    assert torch.equal(ours, theirs)


def test_feed_forward_and_experts() -> None:
    """One expert that takes every token with weight one is a feed-forward layer; both near float32, gradients too.

    A product errs by less than 1e-3; a gradient behind two products and SwiGLU adds up several such errors.
    """
    tokens, width, inner = 150, 200, 72
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    gate_up, down = outliers(2 * inner, width, seed=1) * 0.02, outliers(width, inner, seed=2) * 0.02
    slope = torch.randn(tokens, width, generator=torch.Generator().manual_seed(3)).bfloat16()
    inputs = [x.requires_grad_(), gate_up.requires_grad_(), down.requires_grad_()]
    first = fp8_tiles.quantize_weight(gate_up.detach().view(2, inner, width), 2)
    second = fp8_tiles.quantize_weight(down.detach().unsqueeze(0))
    ours = fp8_feed_forward(*inputs, first, second)
    found = torch.autograd.grad(ours, inputs, slope)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    theirs = functional.linear(swiglu(functional.linear(*exact[:2])), exact[2])
    for one, other in zip((ours, *found), (theirs, *torch.autograd.grad(theirs, exact, slope.float())), strict=True):
        assert difference(one, other) < 1e-2
    order = expert_order(torch.zeros(tokens, 1, dtype=torch.int64), 1, 128)
    stacked = gate_up.detach().unsqueeze(0).requires_grad_(), down.detach().unsqueeze(0).requires_grad_()
    routed = fp8_experts(x, sort_weights(torch.ones(tokens, 1), order), *stacked, first, second, order)
    assert torch.equal(routed, ours)
    for one, other in zip(torch.autograd.grad(routed, (x, *stacked), slope), found, strict=True):
        assert torch.equal(one.view_as(other), other)


def test_compiled_experts_are_one_graph_whatever_rows_they_have() -> None:
    counters, graphs = torch._dynamo.utils.counters, []
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(fp8_experts, dynamic=False, fullgraph=True)
    gate_up, down = (outliers(4, *shape, seed=1) * 0.02 for shape in ((272, 72), (72, 136)))
    first = fp8_tiles.quantize_weight(gate_up.view(8, 136, 72), 2)
    matrices = gate_up.requires_grad_(), down.requires_grad_(), first, fp8_tiles.quantize_weight(down.detach())
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        order = expert_order(torch.rand(90, 4, generator=generator).topk(2).indices, 4, 128)
        weights = sort_weights(torch.rand(90, 2, generator=generator), order)
        x = torch.randn(90, 72, generator=generator).bfloat16().requires_grad_()
        slope, inputs = torch.randn(90, 72, generator=generator).bfloat16(), (x, *matrices[:2])
        results = [run(x, weights, *matrices, order) for run in (fp8_experts, compiled)]
        plain, made = ((result, *torch.autograd.grad(result, inputs, slope)) for result in results)
        assert all(difference(one, other) < 1e-5 for one, other in zip(made, plain, strict=True))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1, 1]


@pytest.mark.parametrize("experts", [4, 7])
def test_routed_experts(experts: int) -> None:
    """Several experts, one of them without tokens, against the bfloat16 op; the weights' gradient too."""
    tokens, width, inner = 90, 72, 136
    generator = torch.Generator().manual_seed(experts)
    chosen = torch.rand(tokens, experts - 1, generator=generator).topk(2).indices
    x = torch.randn(tokens, width, generator=generator).bfloat16().requires_grad_()
    weights = torch.rand(tokens, 2, generator=generator).requires_grad_()
    gate_up = (torch.randn(experts, 2 * inner, width, generator=generator) * 0.1).requires_grad_()
    down = (torch.randn(experts, width, inner, generator=generator) * 0.1).requires_grad_()
    slope = torch.randn(tokens, width, generator=generator).bfloat16()
    order, plain = expert_order(chosen, experts, 128), expert_order(chosen, experts)
    blocks = (
        fp8_tiles.quantize_weight(gate_up.detach().view(2 * experts, inner, width), 2),
        fp8_tiles.quantize_weight(down.detach()),
    )
    ours = fp8_experts(x, sort_weights(weights, order), gate_up, down, *blocks, order)
    matrices = ExpertWeights(gate_up, down, gate_up.bfloat16(), down.bfloat16())
    theirs = routed_experts(x, sort_weights(weights, plain), matrices, plain)
    inputs = (x, weights, gate_up, down)
    pairs = zip(
        (ours, *torch.autograd.grad(ours, inputs, slope)),
        (theirs, *torch.autograd.grad(theirs, inputs, slope)),
        strict=True,
    )
    for one, other in pairs:
        assert one.dtype == other.dtype and difference(one, other) < 5e-3


def test_swiglu_between_products() -> None:
    """The output from the exact input, the gradient from the kept one; a row's weight multiplies the output."""
    products, slope = outliers(128, 256) * 0.1, outliers(128, 128, seed=1)
    weights = torch.rand(128, generator=torch.Generator().manual_seed(2)).requires_grad_()
    inner, kept = reference(products, weights.detach())
    assert difference(fp8_tiles.dequantized(inner), swiglu(products) * weights.unsqueeze(1)) < 1e-3
    cached = fp8_tiles.dequantized(kept).requires_grad_()
    exact = swiglu(cached) * weights.unsqueeze(1)
    expected = torch.autograd.grad(exact, (cached, weights), slope)
    gradient, turned, turned_inner, weights_gradient = gradient_reference(kept, slope, weights.detach())
    assert difference(fp8_tiles.dequantized(gradient), expected[0]) < 1e-3
    assert difference(fp8_tiles.dequantized(turned).t(), expected[0]) < 1e-3
    assert difference(fp8_tiles.dequantized(turned_inner).t(), exact) < 1e-3
    assert torch.allclose(weights_gradient, expected[1], rtol=1e-4, atol=1e-4)
