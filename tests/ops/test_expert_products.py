"""Grouped products and the permutation around them against loops over experts and tokens, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.ops.grouped import grouped_linear, reference
from sapience.ops.permutation import combine, dispatch, expert_order


def product_by_loop(rows: torch.Tensor, matrices: torch.Tensor, counts: list[int]) -> torch.Tensor:
    out, at = [], 0
    for expert, count in enumerate(counts):
        out += [matrices[expert] @ rows[i] for i in range(at, at + count)]
        at += count
    return torch.stack(out) if out else rows.new_zeros((0, matrices.shape[1]))


COUNTS = [[3, 0, 5, 1], [0, 0, 0, 9], [9, 0, 0, 0], [1, 1, 1, 1], [0, 2, 7, 0]]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "width", "outputs", "tolerance"),
    [
        (torch.float64, 8, 16, 1e-12),
        (torch.float32, 8, 16, 1e-5),
        (torch.float32, 7, 5, 1e-5),
        (torch.float32, 12, 8, 1e-5),
        (torch.bfloat16, 16, 8, 2e-2),
    ],
)
def test_ragged_counts_in_value_and_gradient(
    counts: list[int], dtype: torch.dtype, width: int, outputs: int, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(len(counts) + width)
    rows = torch.randn(sum(counts), width, generator=generator).to(dtype).requires_grad_()
    matrices = torch.randn(4, outputs, width, generator=generator).to(dtype).requires_grad_()
    slope = torch.randn(sum(counts), outputs, generator=generator).to(dtype)
    ours = grouped_linear(rows, matrices, torch.tensor(counts))
    gradients = torch.autograd.grad(ours, (rows, matrices), slope)
    exact = [value.detach().double().requires_grad_() for value in (rows, matrices)]
    loop = product_by_loop(exact[0], exact[1], counts)
    expected = torch.autograd.grad(loop, exact, slope.double())
    for one, other in zip((ours, *gradients), (loop, *expected), strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).abs().max() <= tolerance * max(1.0, float(other.detach().abs().max()))
    assert torch.equal(
        gradients[1][torch.tensor(counts) == 0], torch.zeros(counts.count(0), outputs, width, dtype=dtype)
    )


def test_no_rows_at_all() -> None:
    matrices = torch.randn(4, 16, 8, requires_grad=True)
    out = grouped_linear(torch.zeros(0, 8), matrices, torch.zeros(4, dtype=torch.int64))
    assert out.shape == (0, 16)
    assert reference(torch.zeros(0, 8), matrices, torch.zeros(4, dtype=torch.int64)).shape == (0, 16)


def test_grouped_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    matrices = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(lambda r, m: grouped_linear(r, m, counts), (rows, matrices))


def choices_of(tokens: int, experts: int, choices: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, experts, generator=generator).topk(choices).indices


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 9), choices=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_order_sorts_copies_by_expert_and_can_be_undone(tokens: int, choices: int, seed: int) -> None:
    chosen = choices_of(tokens, 4, choices, seed)
    order = expert_order(chosen, 4)
    flat = chosen.flatten()
    assert flat[order.order_N].tolist() == sorted(flat.tolist())
    assert order.order_N[order.inverse_N].tolist() == list(range(flat.numel()))
    assert order.counts_E.tolist() == [flat.tolist().count(expert) for expert in range(4)]


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 9), choices=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_dispatch_and_combine_are_a_weighted_sum_over_each_tokens_experts(tokens: int, choices: int, seed: int) -> None:
    """With expert e multiplying by e+1, the whole is sum_k weight_k · (e_k + 1) · x, gradients included."""
    chosen = choices_of(tokens, 4, choices, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(tokens, choices, generator=generator, dtype=torch.float64, requires_grad=True)
    order = expert_order(chosen, 4)
    factors = torch.repeat_interleave(torch.arange(1.0, 5.0, dtype=torch.float64), order.counts_E)
    ours = combine(dispatch(x, order) * factors.unsqueeze(1), weights, order)
    loop = torch.stack(
        [sum(weights[t, k] * float(chosen[t, k] + 1) * x[t] for k in range(choices)) for t in range(tokens)]
    )
    assert torch.allclose(ours, loop, rtol=1e-12)
    slope = torch.randn(tokens, 5, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, (x, weights), slope), torch.autograd.grad(loop, (x, weights), slope), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_permutation_gradcheck() -> None:
    order = expert_order(choices_of(5, 4, 2, 0), 4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = torch.randn(10, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: dispatch(t, order), (x,))
    assert torch.autograd.gradcheck(lambda o, w: combine(o, w, order), (outputs, weights))
