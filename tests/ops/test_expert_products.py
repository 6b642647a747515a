"""Grouped products and the permutation around them against loops over experts and tokens, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.ops.experts import ExpertWeights, routed_experts, sorted_experts, swiglu, swiglu_gradient
from sapience.ops.experts import reference as experts_reference
from sapience.ops.grouped import grouped_linear, reference
from sapience.ops.permutation import combine, dispatch, expert_order, sort_weights


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
    ours = combine(dispatch(x, order) * (factors * sort_weights(weights, order)).unsqueeze(1), order)
    loop = torch.stack(
        [sum(weights[t, k] * float(chosen[t, k] + 1) * x[t] for k in range(choices)) for t in range(tokens)]
    )
    assert torch.allclose(ours, loop, rtol=1e-12)
    slope = torch.randn(tokens, 5, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, (x, weights), slope), torch.autograd.grad(loop, (x, weights), slope), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("multiple", [1, 4, 128])
def test_permutation_gradcheck(multiple: int) -> None:
    order = expert_order(choices_of(5, 4, 2, 0), 4, multiple)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = torch.randn(order.order_N.numel(), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: dispatch(t, order), (x,))
    assert torch.autograd.gradcheck(lambda o: combine(o, order), (outputs,))
    assert torch.autograd.gradcheck(lambda w: sort_weights(w, order), (weights,))


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 9),
    choices=st.integers(1, 3),
    multiple=st.sampled_from([2, 3, 8, 128]),
    seed=st.integers(0, 10**6),
)
def test_groups_filled_up_to_a_multiple(tokens: int, choices: int, multiple: int, seed: int) -> None:
    """As many places whatever the routing; groups begin at multiples; every copy stands in its expert's group, once."""
    chosen = choices_of(tokens, 4, choices, seed)
    order, plain = expert_order(chosen, 4, multiple), expert_order(chosen, 4)
    copies = tokens * choices
    assert order.order_N.numel() == expert_order(torch.zeros_like(chosen), 4, multiple).order_N.numel()
    assert order.order_N.numel() >= int(order.counts_E.sum()) and not order.order_N.numel() % multiple
    assert order.counts_E.tolist() == [-(-count // multiple) * multiple for count in plain.counts_E.tolist()]
    assert order.order_N[order.inverse_N].tolist() == list(range(copies))
    assert int((order.order_N == copies).sum()) == order.order_N.numel() - copies
    begin = 0
    for expert, count in enumerate(order.counts_E.tolist()):
        inside = order.order_N[begin : begin + count]
        assert (chosen.flatten()[inside[inside < copies]] == expert).all()
        begin += count
    x = torch.randn(tokens, 5, generator=torch.Generator().manual_seed(seed))
    rows = dispatch(x, order)
    assert not rows[order.order_N == copies].any()
    assert torch.allclose(combine(rows, order), x * choices)


def expert_inputs(tokens: int, choices: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (tokens, 8), (tokens, choices), (4, 16, 8), (4, 8, 8)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [one.requires_grad_() for one in made], choices_of(tokens, 4, choices, 1)


@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_experts_equal_a_loop_over_tokens(dtype: torch.dtype, tolerance: float, routed: bool) -> None:
    """sum_k weight_k · expert_k(x) in float64 with autograd; rows sorted before, or gathered inside and again backward."""
    (x, weights, gate_up, down), chosen = expert_inputs(11, 2, dtype)
    order = expert_order(chosen, 4)
    matrices = ExpertWeights(gate_up, down, gate_up, down)
    placed = sort_weights(weights, order)
    if routed:
        ours = routed_experts(x, placed, matrices, order)
    else:
        ours = combine(sorted_experts(dispatch(x, order), placed, matrices, order.counts_E), order)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weights, gate_up, down)]
    loop = torch.stack(
        [
            sum(
                exact[1][t, k] * (exact[3][e] @ swiglu(exact[2][e] @ exact[0][t]))
                for k, e in enumerate(chosen[t].tolist())
            )
            for t in range(11)
        ]
    )
    slope = torch.randn(11, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = torch.autograd.grad(ours, (x, weights, gate_up, down), slope.to(dtype))
    expected = torch.autograd.grad(loop, exact, slope)
    for one, other in zip((ours, *found), (loop, *expected), strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


def test_experts_gradcheck() -> None:
    (x, weights, gate_up, down), chosen = expert_inputs(5, 2, torch.float64)
    order = expert_order(chosen, 4)

    def run(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return routed_experts(x, sort_weights(w, order), ExpertWeights(g, d, g, d), order)

    assert torch.autograd.gradcheck(run, (x, weights, gate_up, down))


def test_experts_with_float32_weights_and_bfloat16_rows() -> None:
    """Products take the copies; gradients of the weights come back in float32; an expert without rows gets zeros."""
    (x, weights, gate_up, down), chosen = expert_inputs(11, 2, torch.float32)
    chosen = chosen.clamp(max=2)
    order = expert_order(chosen, 4)
    narrow = x.detach().bfloat16().requires_grad_()
    matrices = ExpertWeights(gate_up, down, gate_up.bfloat16(), down.bfloat16())
    ours = routed_experts(narrow, sort_weights(weights, order), matrices, order)
    rounded = [gate_up.detach().bfloat16().float().requires_grad_(), down.detach().bfloat16().float().requires_grad_()]
    rows = dispatch(narrow.detach().float(), order)
    wide = combine(
        experts_reference(rows, sort_weights(weights, order), ExpertWeights(*rounded, *rounded), order.counts_E), order
    )
    slope = torch.randn(11, 8, generator=torch.Generator().manual_seed(3)).bfloat16()
    found = torch.autograd.grad(ours, (gate_up, down), slope)
    expected = torch.autograd.grad(wide, rounded, slope.float())
    for one, other in zip((ours, *found), (wide, *expected), strict=True):
        assert (one.float() - other).norm() <= 2e-2 * other.norm()
    assert found[0].dtype == found[1].dtype == torch.float32
    assert not found[0][3].any() and not found[1][3].any()


def test_swiglus_gradient() -> None:
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(7, 6, dtype=torch.float64)
    (expected,) = torch.autograd.grad(swiglu(x), x, slope)
    assert torch.allclose(swiglu_gradient(x.detach(), slope), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_inside_of_a_compiled_function(dtype: torch.dtype) -> None:
    """Traced by PyTorch's compiler (without generating code): the same values and gradients."""
    (x, weights, gate_up, down), chosen = expert_inputs(11, 2, dtype)
    order = expert_order(chosen, 4)

    def run(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return routed_experts(x, sort_weights(w, order), ExpertWeights(g, d, g, d), order)

    slope = torch.randn(11, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    inputs = (x, weights, gate_up, down)
    results = [
        (y := function(*inputs), *torch.autograd.grad(y, inputs, slope))
        for function in (run, torch.compile(run, backend="aot_eager", fullgraph=True))
    ]
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    assert all((one - other).norm() <= tolerance * other.norm() for one, other in zip(*results, strict=True))
