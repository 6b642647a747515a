"""What runs as one kernel on a GPU, against its reference, in value and gradient, on random numbers with outliers."""

import pytest
import torch

from sapience.model.batch import from_rows
from sapience.model.linear import Precision
from sapience.model.transformer import Transformer
from sapience.ops import choice
from sapience.ops.adamw import Update, adamw_
from sapience.ops.adamw import reference as adamw_reference
from sapience.ops.cross_entropy import IGNORE, linear_cross_entropy, reference
from sapience.ops.embedding import embedding
from sapience.ops.embedding import reference as embedding_reference
from sapience.ops.fp8_tiles import quantize_weight
from sapience.ops.masked_attention import PackedDocuments, masked_attention, most_documents
from sapience.ops.permutation import expert_order, sum_copies
from sapience.ops.wide_linear import reference as wide_reference
from sapience.ops.wide_linear import wide_linear
from sapience.parallel.executor import PlainLoop
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(1, 64, 2), (700, 96, 5003), (9001, 64, 32768), (300, 64, 129_280)])
def test_cross_entropy(shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    rows, width, vocabulary = shape
    torch.manual_seed(rows)
    hidden = torch.randn(rows, width, device="cuda")
    hidden[:, 0] *= 30
    labels = torch.randint(vocabulary, (rows,), device="cuda")
    labels[torch.rand(rows, device="cuda") < 0.2] = IGNORE
    head = torch.randn(vocabulary, width, device="cuda") * 0.3
    results = []
    for op in (linear_cross_entropy, reference):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (hidden, head)]
        loss = op(inputs[0], inputs[1], labels)
        (loss / rows).backward()
        results.append([loss.detach(), *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        assert float((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp(min=1e-30)) < tolerance


@pytest.mark.parametrize(
    ("experts", "groups", "opened", "choices"),
    [(256, 8, 4, 8), (64, 8, 4, 6), (64, 1, 1, 6), (16, 1, 1, 16), (8, 4, 1, 2), (1, 1, 1, 1), (48, 6, 2, 3)],
)
@pytest.mark.parametrize("tokens", [1, 5001])
def test_choice_of_experts(experts: int, groups: int, opened: int, choices: int, tokens: int) -> None:
    torch.manual_seed(experts)
    affinities = torch.rand(tokens, experts, device="cuda")
    bias = torch.randn(experts, device="cuda") * 2
    arguments = affinities, bias, choices, groups, opened, min(2, experts // groups)
    ours, theirs = (
        chosen.sort(-1).values for chosen in (choice.best_experts(*arguments), choice.reference(*arguments))
    )
    assert torch.equal(ours, theirs)


def test_choice_of_experts_inside_of_a_compiled_function() -> None:
    affinities, bias = torch.rand(77, 64, device="cuda"), torch.randn(64, device="cuda")
    compiled = torch.compile(lambda a: choice.best_experts(a * 2, bias, 6, 8, 4, 2).sort(-1).values, fullgraph=True)
    assert torch.equal(compiled(affinities), choice.reference(affinities * 2, bias, 6, 8, 4, 2).sort(-1).values)


@pytest.mark.parametrize("compiled", [False, True])
def test_wide_linear(compiled: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3000, 512, device="cuda").bfloat16()
    x[:, 0] *= 30
    weight = torch.randn(64, 512, device="cuda").bfloat16()
    results = []
    for op in (torch.compile(wide_linear) if compiled else wide_linear, wide_reference):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        out = op(*inputs)
        (out.sigmoid() * torch.linspace(-1, 1, 64, device="cuda")).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    assert results[0][0].dtype == torch.float32
    for ours, theirs, tolerance in zip(*results, (1e-6, 4e-3, 4e-3), strict=True):
        assert float((ours.float() - theirs.float()).norm() / theirs.float().norm()) < tolerance


@pytest.mark.parametrize("shape", [(384, 256), (3, 144, 72), (5,)])
@pytest.mark.parametrize("copied", [False, True])
def test_adamw_moves_a_weight_and_writes_its_copy(shape: tuple[int, ...], copied: bool) -> None:
    """Three updates as the reference's (a moment may be rounded to its neighbour), and one that may not be."""
    generator = torch.Generator().manual_seed(0)
    theirs = [torch.randn(shape, generator=generator), *(torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2))]
    ours = [tensor.cuda() for tensor in theirs]
    copy = ours[0].bfloat16() if copied else None
    update = Update(0.01, 0.9, 0.95, 1e-8, 0.1)
    for step in (1, 2, 3):
        gradient = torch.randn(shape, generator=generator)
        scalars = torch.tensor(0.5), torch.tensor(float(step))
        adamw_reference(theirs[0], gradient, *theirs[1:], *scalars, update)
        version = ours[0]._version
        assert adamw_(ours[0], gradient.cuda(), *ours[1:], *(one.cuda() for one in scalars), update, copy) == copied
        assert ours[0]._version > version
    for one, other in zip(ours, theirs, strict=True):
        near = 2e-3 * float(other.abs().max()) if one.dtype == torch.bfloat16 else 1e-4
        assert torch.allclose(
            one.cpu().float(), other.float(), rtol=4e-3 if one.dtype == torch.bfloat16 else 0, atol=near
        )
    before = [tensor.clone() for tensor in ours]
    adamw_(ours[0], gradient.cuda(), *ours[1:], torch.tensor(float("nan")).cuda(), scalars[1].cuda(), update, copy)
    assert all(torch.equal(one, other) for one, other in zip(before, ours, strict=True))
    assert copy is None or torch.equal(copy, ours[0].bfloat16())


@pytest.mark.parametrize(("shape", "planes"), [((384, 256), 1), ((3, 544, 130), 2), ((300, 200), 1)])
def test_adamw_writes_the_blocks_that_quantizing_would_make(shape: tuple[int, ...], planes: int) -> None:
    torch.manual_seed(0)
    plain = [torch.randn(shape, device="cuda"), *torch.zeros(2, *shape, dtype=torch.bfloat16, device="cuda")]
    plain[0].flatten()[::977] *= 50
    ours = [tensor.clone() for tensor in plain]
    stacked = ours[0].view(-1, shape[-2] // planes, shape[-1])
    blocks = quantize_weight(stacked, planes)
    update = Update(0.01, 0.9, 0.95, 1e-8, 0.1)
    for step in (1.0, 2.0):
        gradient, step_, half = torch.randn(shape, device="cuda"), torch.tensor(step).cuda(), torch.tensor(0.5).cuda()
        assert not adamw_(plain[0], gradient, *plain[1:], half, step_, update)
        assert adamw_(ours[0], gradient, *ours[1:], half, step_, update, blocks, planes)
    nothing = torch.tensor(float("inf")).cuda()
    adamw_(ours[0], gradient, *ours[1:], nothing, step_, update, blocks, planes)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    expected = quantize_weight(stacked, planes)
    for name in ("elements", "scales", "turned", "turned_scales"):
        made, right = (getattr(one, name).view(torch.uint8) for one in (blocks, expected))
        assert torch.equal(made, right), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("count", "width"), [(5, 64), (3000, 1000), (129_280, 128)])
def test_embedding(count: int, width: int, dtype: torch.dtype) -> None:
    """Some tokens stand at many places, most nowhere."""
    torch.manual_seed(0)
    tokens = (torch.rand(3, 700, device="cuda").pow(8) * count).long()
    weight = torch.randn(count, width, device="cuda", requires_grad=True)
    ours, theirs = embedding(tokens, weight, dtype), embedding_reference(tokens, weight, dtype)
    assert torch.equal(ours, theirs)
    slope = torch.randn(3, 700, width, device="cuda").to(dtype)
    (found,) = torch.autograd.grad(ours, weight, slope)
    exact = torch.zeros(count, width, dtype=torch.float64, device="cuda")
    exact.index_add_(0, tokens.flatten(), slope.flatten(0, 1).double())
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 1e-6
    (again,) = torch.autograd.grad(embedding(tokens, weight, dtype), weight, slope)
    assert torch.equal(found, again)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [64, 1000, 7168])
def test_sums_of_copies(width: int, dtype: torch.dtype) -> None:
    order = expert_order(torch.rand(77, 8).topk(3).indices.cuda(), 8)
    rows = torch.randn(77 * 3, width, device="cuda").to(dtype)
    exact = rows.double()[order.inverse_N].view(77, 3, width).sum(1)
    assert torch.allclose(
        sum_copies(rows, order).double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
    )


def test_sums_of_copies_of_very_many_tokens() -> None:
    """More than a grid may have in its second dimension (65,535)."""
    order = expert_order(torch.zeros(70_000, 1, dtype=torch.int64, device="cuda"), 1)
    rows = torch.randn(70_000, 16, device="cuda")
    assert torch.equal(sum_copies(rows, order), rows)


@pytest.mark.parametrize("widths", [(64, 64), (192, 128), (24, 16)])
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_within_packed_documents(widths: tuple[int, int], compiled: bool) -> None:
    torch.manual_seed(0)
    numbers = (torch.rand(2, 700, device="cuda") < 0.02).cumsum(1)
    numbers[:, 600:] = -1
    mask = PackedDocuments.of(numbers, most_documents(numbers)).first(690)
    values = [torch.randn(2, 690, 3, w, device="cuda").transpose(1, 2) for w in (widths[0], widths[0], widths[1])]
    slope = torch.randn(2, 3, 690, widths[1], device="cuda")
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [value.bfloat16().to(dtype).requires_grad_() for value in values]
        op = torch.compile(masked_attention) if compiled and dtype == torch.bfloat16 else masked_attention
        mixed = op(*inputs, mask, 0.2)
        results.append([mixed, *torch.autograd.grad(mixed, inputs, slope.to(dtype))])
    for ours, theirs in zip(*results, strict=True):
        assert float((ours.double() - theirs).norm() / theirs.norm()) < 1e-2


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_learns_and_its_copies_follow(precision: Precision, compiled: bool) -> None:
    """A few steps with bfloat16 moments: the loss falls, and a fresh model with these weights gives the same hidden states."""
    config = ModelSection(
        vocab_size=64, hidden_size=128, intermediate_size=192, moe_intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1, kv_lora_rank=32,
        q_lora_rank=48, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=32, num_nextn_predict_layers=1,
        first_k_dense_replace=1, max_position_embeddings=64, initializer_range=0.05,
    )  # fmt: skip
    model = Transformer(config).initialize(0).cuda().compute_in(precision)
    if compiled:
        model.compile_layers()
    optimizer = OptimizerSet(model, OptimizerSection(moments="bf16"))
    tokens = torch.arange(65, device="cuda").repeat(4, 1) * torch.tensor([[1], [3], [5], [7]], device="cuda") % 64
    batch = from_rows(tokens, torch.zeros(4, 65, dtype=torch.int32, device="cuda"))
    losses = []
    for _ in range(12):
        sums = PlainLoop(model, NextTokens(0.3, 1e-4)).forward_backward([batch], 256)
        optimizer.step(3e-3)
        losses.append(float(sums.values["loss"]) / 256)
    assert losses[-1] < 0.7 * losses[0]
    other = Transformer(config).cuda()
    other.load_state_dict(model.state_dict())
    other.compute_in(precision)
    with torch.no_grad():
        assert torch.equal(model.hidden(tokens), other.hidden(tokens))
