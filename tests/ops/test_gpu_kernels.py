"""What runs as one kernel on a GPU, against its reference, in value and gradient, on random numbers with outliers."""

import pytest
import torch

from sapience.ops import choice
from sapience.ops.cross_entropy import IGNORE, linear_cross_entropy, reference
from sapience.ops.wide_linear import reference as wide_reference
from sapience.ops.wide_linear import wide_linear

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
