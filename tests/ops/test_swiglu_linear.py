"""SwiGLU with the linear layer behind it: the bits of autograd in float32, near float64 in bfloat16, and half as much kept."""

import pytest
import torch
from torch import Tensor

from sapience.ops.swiglu_linear import reference, swiglu_linear


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Rows with outliers, a weight, a slope."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 17, 2 * 24, generator=generator)
    rows[0, :, 5] *= 30
    return rows, 0.2 * torch.randn(40, 24, generator=generator), torch.randn(3, 17, 40, generator=generator)


def test_value_and_gradients_have_the_bits_of_autograd() -> None:
    *inputs, slope = drawn()
    results = []
    for function in (reference, lambda rows, weight: swiglu_linear(rows, weight, weight)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, slope)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_gradcheck() -> None:
    rows, weight, _ = (tensor.double() for tensor in drawn())
    leaves = rows[:1, :3].clone().requires_grad_(), weight[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one, other: swiglu_linear(one, other, other), leaves)


@pytest.mark.parametrize("compiled", [False, True])
def test_narrow_rows_with_a_wide_weight(compiled: bool) -> None:
    """The weight's gradient stays float32, the rows' is bfloat16; both near float64."""
    rows, weight, slope = drawn()
    exact = [rows.bfloat16().double().requires_grad_(), weight.bfloat16().double().requires_grad_()]
    expected = torch.autograd.grad(reference(*exact), exact, slope.bfloat16().double())
    leaves = [rows.bfloat16().requires_grad_(), weight.clone().requires_grad_()]
    function = torch.compile(swiglu_linear, dynamic=False) if compiled else swiglu_linear
    found = torch.autograd.grad(function(*leaves, weight.bfloat16()), leaves, slope.bfloat16())
    assert [one.dtype for one in found] == [torch.bfloat16, torch.float32]
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).norm() <= 1e-2 * other.norm()


def test_the_inner_rows_are_not_kept() -> None:
    rows, weight, _ = drawn()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        swiglu_linear(rows.requires_grad_(), weight.requires_grad_(), weight)
    assert sorted(tensor.shape for tensor in kept) == sorted([rows.shape, weight.shape])
