"""FP8 kernels on a GPU against what defines them: the same bits from quantizing, the same products, the same gradients."""

import pytest
import torch

from sapience.ops import fp8_products, fp8_swiglu, fp8_tiles
from sapience.ops.fp8_layers import fp8_experts, fp8_feed_forward, fp8_linear, fp8_two_linears
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.permutation import expert_order, sort_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a GPU with FP8 tensor cores",
    ),
]


def outliers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, a column and a row of which are much larger, one of which is zero; in bfloat16, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x[..., shape[-1] // 3] *= 60
    x[..., shape[-2] // 2, :] *= 30
    x[..., 1, :] = 0
    return x.bfloat16()


def same(ours: Tiles, theirs: Tiles) -> bool:
    return torch.equal(ours.elements.cpu().view(torch.uint8), theirs.elements.view(torch.uint8)) and torch.equal(
        ours.scales.cpu(), theirs.scales
    )


def difference(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    return float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum()))


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (100, 72), (1, 1000), (4096, 576), (300, 7168)])
def test_tiles_have_the_bits_of_the_reference(shape: tuple[int, int]) -> None:
    x = outliers(max(shape[0], 2), shape[1])[-shape[0] :]
    rows, columns = fp8_tiles.quantize_both(x.cuda())
    assert same(rows, fp8_tiles.rows_reference(x))
    assert same(columns, fp8_tiles.columns_reference(x))
    assert same(fp8_tiles.quantize_rows(x.cuda()), fp8_tiles.rows_reference(x))
    assert same(fp8_tiles.turn(rows), fp8_tiles.turned_reference(fp8_tiles.rows_reference(x)))
    chosen = torch.randint(rows.elements.shape[0] + 2, (256,))
    there = fp8_tiles.rows_reference(x)
    assert same(fp8_tiles.gather(rows, chosen.cuda()), fp8_tiles.gathered_reference(there, chosen))
    assert same(fp8_tiles.turn(rows, chosen.cuda()), fp8_tiles.turned_reference(there, chosen))


@pytest.mark.parametrize("shape", [(128, 128), (100, 72), (33, 1000), (300, 7168)])
def test_a_norm_writes_tiles_itself(shape: tuple[int, int]) -> None:
    """The reference's numbers but for rounding: the last bit of a norm may fall on the other side of a tie."""
    x, weight = outliers(*shape), torch.rand(shape[1]) + 0.5
    ours, theirs = (fp8_tiles.quantize_normed(x.to(place), weight.to(place), 1e-6) for place in ("cuda", "cpu"))
    found, expected = (fp8_tiles.dequantized(Tiles(t.elements.cpu(), t.scales.cpu())) for t in (ours, theirs))
    assert difference(found, expected) < 1e-6
    assert (found != expected).float().mean() < 2e-3
    assert ours.elements.shape == theirs.elements.shape
    assert ours.scales.shape == theirs.scales.shape


def test_a_part_of_a_matrix_is_quantized_where_it_lies() -> None:
    x = outliers(256, 512)
    assert same(fp8_tiles.quantize_rows(x.cuda()[:, 128:300]), fp8_tiles.rows_reference(x[:, 128:300]))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(number: float) -> None:
    x = outliers(128, 256)
    x[3, 200] = number
    wide = fp8_tiles.dequantized(fp8_tiles.quantize_rows(x.cuda()))
    assert not wide[3, 200].isfinite() and wide[:, :128].isfinite().all()


@pytest.mark.parametrize(
    ("shape", "planes"), [((1, 128, 128), 1), ((6, 72, 200), 2), ((2, 704, 256), 2), ((3, 576, 512), 1)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_have_the_bits_of_the_reference(shape: tuple[int, int, int], planes: int, dtype: torch.dtype) -> None:
    weight = outliers(*shape).to(dtype)
    if dtype == torch.float32:
        weight = weight * torch.rand(shape)
    ours, theirs = fp8_tiles.quantize_weight(weight.cuda(), planes), fp8_tiles.weight_reference(weight, planes)
    assert torch.equal(ours.elements.cpu().view(torch.uint8), theirs.elements.view(torch.uint8))
    assert torch.equal(ours.turned.cpu().view(torch.uint8), theirs.turned.view(torch.uint8))
    assert torch.equal(ours.scales.cpu(), theirs.scales) and torch.equal(ours.turned_scales.cpu(), theirs.turned_scales)


@pytest.mark.parametrize("weighted", [False, True])
def test_swiglu(weighted: bool) -> None:
    products, slope = outliers(256, 768), outliers(256, 384, seed=1)
    weights = torch.rand(256) if weighted else None
    moved = None if weights is None else weights.cuda()
    theirs = fp8_swiglu.reference(products, weights)
    ours = fp8_swiglu.swiglu_tiles(products.cuda(), moved)
    assert same(ours[1], theirs[1])
    assert difference(fp8_tiles.dequantized(ours[0]), fp8_tiles.dequantized(theirs[0])) < 1e-6
    expected = fp8_swiglu.gradient_reference(theirs[1], slope, weights)
    found = fp8_swiglu.swiglu_gradient_tiles(ours[1], slope.cuda(), moved)
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert difference(fp8_tiles.dequantized(one), fp8_tiles.dequantized(other)) < 1e-6
    assert difference(found[3], expected[3]) < 1e-10


@pytest.mark.parametrize(
    ("rows", "depth", "width"), [(128, 128, 128), (384, 640, 256), (1024, 7168, 640), (2048, 384, 1024)]
)
def test_products(rows: int, depth: int, width: int) -> None:
    """The same quantized values: what differs is the tensor cores' rounding inside of 128 numbers and the result's."""
    x, slope = outliers(rows, depth), outliers(rows, width, seed=1)
    weight = fp8_tiles.weight_reference(outliers(1, width, depth, seed=2))
    moved = fp8_tiles.quantize_weight(outliers(1, width, depth, seed=2).cuda())
    (tiles, columns), (_, slopes) = fp8_tiles.quantize_both(x.cuda()), fp8_tiles.quantize_both(slope.cuda())
    theirs = fp8_products.product(fp8_tiles.rows_reference(x), weight.elements[0], weight.scales[0])
    assert difference(fp8_products.product(tiles, moved.elements[0], moved.scales[0]), theirs) < 1e-5
    expected = fp8_products.weight_product(fp8_tiles.columns_reference(slope), fp8_tiles.columns_reference(x))
    assert difference(fp8_products.weight_product(slopes, columns), expected) < 1e-5


@pytest.mark.parametrize(
    "counts",
    [[128], [0, 256, 0, 128, 0], [384, 0, 128, 128], [128] * 40, [0, 0, 1280]],
    ids=lambda counts: str(counts)[:30],
)
@pytest.mark.parametrize(("depth", "width"), [(128, 128), (640, 384), (2048, 1024)])
def test_products_of_groups(counts: list[int], depth: int, width: int) -> None:
    total = torch.tensor(counts)
    rows = int(total.sum()) + 256
    x, slope = outliers(rows, depth), outliers(rows, width, seed=1)
    stack = outliers(len(counts), width, depth, seed=2)
    theirs, ours = fp8_products.groups_of(total, rows), fp8_products.groups_of(total.cuda(), rows)
    weight, moved = fp8_tiles.weight_reference(stack), fp8_tiles.quantize_weight(stack.cuda())
    (tiles, columns), (_, slopes) = fp8_tiles.quantize_both(x.cuda()), fp8_tiles.quantize_both(slope.cuda())
    expected = fp8_products.grouped_product(fp8_tiles.rows_reference(x), weight.elements, weight.scales, theirs)
    result = fp8_products.grouped_product(tiles, moved.elements, moved.scales, ours)
    assert difference(result[: rows - 256], expected[: rows - 256]) < 1e-5
    gradient = fp8_products.grouped_weight_product(slopes, columns, ours)
    wanted = fp8_products.grouped_weight_product(
        fp8_tiles.columns_reference(slope), fp8_tiles.columns_reference(x), theirs
    )
    assert difference(gradient, wanted) < 1e-5
    assert not gradient[(total == 0).cuda()].any()
    squares = fp8_products.squares_of(gradient)
    assert squares is not None
    assert torch.allclose(squares.double().sum(), gradient.double().square().sum(), rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("tokens", "width", "inner"), [(300, 256, 384), (512, 200, 72)])
def test_layers_equal_the_emulation(tokens: int, width: int, inner: int, compiled: bool) -> None:
    """Value and gradients of linear layer, feed-forward and experts, on a GPU and on a CPU."""
    experts, choices = 5, 2
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(tokens, experts, generator=generator).topk(choices).indices
    weights = torch.rand(tokens, choices, generator=generator)
    gate_up = torch.randn(experts, 2 * inner, width, generator=generator) * 0.05
    down = torch.randn(experts, width, inner, generator=generator) * 0.05
    square, other = torch.eye(width) + 0.1, torch.eye(width).flip(0) + 0.2
    x, slope = outliers(tokens, width), outliers(tokens, width, seed=1)

    def step(
        x: torch.Tensor,
        weights: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        square: torch.Tensor,
        other: torch.Tensor,
    ) -> torch.Tensor:
        order = expert_order(chosen.to(x.device), experts, 128)
        with torch.no_grad():
            made = (
                fp8_tiles.quantize_weight(gate_up.view(2 * experts, inner, width), 2),
                fp8_tiles.quantize_weight(down),
            )
            square_blocks, other_blocks = (fp8_tiles.quantize_weight(each.unsqueeze(0)) for each in (square, other))
            single = fp8_tiles.quantize_weight(gate_up[0].view(2, inner, width), 2), fp8_tiles.quantize_weight(down[:1])
        routed = fp8_experts(x, sort_weights(weights, order), gate_up, down, *made, order)
        fed = fp8_feed_forward(x, gate_up[0], down[0], *single)
        two = fp8_two_linears(fed, square, square_blocks, other, other_blocks)
        return routed + fed + fp8_linear(fed, square, square_blocks) + two[0] + two[1]

    results = []
    for device in ("cpu", "cuda"):
        inputs = [tensor.detach().to(device).requires_grad_() for tensor in (x, weights, gate_up, down, square, other)]
        run = torch.compile(step) if compiled and device == "cuda" else step
        y = run(*inputs)
        results.append([y, *torch.autograd.grad(y, inputs, slope.to(device))])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ours.dtype == theirs.dtype
        assert difference(ours, theirs) < 1e-3
