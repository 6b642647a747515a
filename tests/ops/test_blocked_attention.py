"""Causal attention in blocks on a CPU: value and gradients against float64, odd lengths, compiled, and when it is taken."""

import pytest
import torch
from torch import Tensor

from sapience.ops import blocked_attention as op
from sapience.ops.masked_attention import causal_attention


def drawn(rows: int, heads: int, length: int, width: int, value: int) -> list[Tensor]:
    """Queries, keys, values and a slope, [B,H,T,d] as views of [B,T,H,d]; a few keys are outliers."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(rows, length, heads, d, generator=generator) for d in (width, width, value, value)]
    tensors[1][:, :: max(1, length // 7)] *= 20
    return [tensor.transpose(1, 2) for tensor in tensors]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 3, 300, 24, 16), (1, 2, 1, 8, 8), (3, 1, 128, 8, 24), (1, 4, 129, 16, 16)], ids=str
)
def test_value_and_gradients_are_those_of_float64(shape: tuple[int, ...], compiled: bool) -> None:
    *inputs, slope = drawn(*shape)
    results = []
    for function, kind in ((op.blocked_attention, torch.float32), (op.reference, torch.float64)):
        call = torch.compile(function, dynamic=False) if compiled and kind == torch.float32 else function
        leaves = [tensor.to(kind).requires_grad_() for tensor in inputs]
        mixed = call(*leaves, 0.3)
        results.append([mixed.detach(), *torch.autograd.grad(mixed, leaves, slope.to(kind))])
    for ours, exact in zip(*results, strict=True):
        assert ours.shape == exact.shape
        assert (ours.double() - exact).norm() <= 1e-5 * exact.norm().clamp(min=1e-3)


def test_many_small_blocks_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = drawn(2, 2, 200, 8, 8)[:3]
    whole = op.blocked_attention(*inputs, 0.5)
    monkeypatch.setattr(op, "BLOCK_ELEMENTS", 1)
    assert torch.allclose(op.blocked_attention(*inputs, 0.5), whole, rtol=1e-5, atol=1e-6)


def test_it_serves_rows_of_middle_length_in_float32() -> None:
    """What it does not serve goes to PyTorch; both give the same."""
    for length, kind in ((op.SHORTEST, torch.float32), (op.SHORTEST - 1, torch.float32), (op.SHORTEST, torch.float64)):
        inputs = [tensor.to(kind) for tensor in drawn(1, 2, length, 12, 8)[:3]]
        assert op.fits(inputs[0]) == (length == op.SHORTEST and kind == torch.float32)
        mixed = causal_attention(*inputs, 0.2)
        assert torch.allclose(mixed, op.reference(*inputs, 0.2), rtol=1e-4, atol=1e-5)


def test_the_op_is_registered_as_its_kinds_say() -> None:
    inputs = [tensor.clone().requires_grad_() for tensor in drawn(1, 2, 40, 8, 8)[:3]]
    torch.library.opcheck(op._forward, (*inputs, 0.3))
