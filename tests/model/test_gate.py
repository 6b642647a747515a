"""The gate against loops that follow the report's equations 12 to 20 word by word, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_config, tiny_model

from sapience.model.gate import (
    choose_experts,
    count_loads,
    expert_weights,
    max_violation,
    sequence_balance,
    updated_bias,
)
from sapience.recipe.model import ModelSection


def chosen_by_loop(affinities: list[float], bias: list[float], config: ModelSection) -> set[int]:
    """Groups by the sum of their two best biased affinities (V2: by their best), then experts by theirs."""
    biased = [s + b for s, b in zip(affinities, bias, strict=True)]
    size = config.n_routed_experts // config.n_group
    groups = [list(range(g * size, (g + 1) * size)) for g in range(config.n_group)]
    if config.n_group > 1:
        best = 2 if config.scoring_func == "sigmoid" else 1
        groups.sort(key=lambda members: -sum(sorted((biased[i] for i in members), reverse=True)[:best]))
    reachable = [i for members in groups[: config.topk_group] for i in members]
    return set(sorted(reachable, key=lambda i: -biased[i])[: config.num_experts_per_tok])


SHAPES = [(8, 1, 1, 2), (8, 4, 2, 3), (8, 2, 1, 4), (12, 3, 2, 6), (16, 8, 4, 8)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 0.1, 2.0]),
    scoring=st.sampled_from(["sigmoid", "softmax"]),
)
def test_the_choice_is_the_loops(shape: tuple[int, int, int, int], seed: int, spread: float, scoring: str) -> None:
    experts, groups, kept, choices = shape
    config = tiny_config(
        n_routed_experts=experts, n_group=groups, topk_group=kept, num_experts_per_tok=choices,
        scoring_func=scoring, norm_topk_prob=scoring == "sigmoid",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    affinities = torch.rand(5, experts, generator=generator, dtype=torch.float64)
    bias = spread * torch.randn(experts, generator=generator, dtype=torch.float64)
    chosen = choose_experts(affinities, bias, config)
    for token in range(5):
        assert set(chosen[token].tolist()) == chosen_by_loop(affinities[token].tolist(), bias.tolist(), config)
        assert len(set(chosen[token].tolist())) == choices


@pytest.mark.parametrize("renormalise", [True, False])
def test_weights_are_unbiased_affinities_shared_out_and_scaled(renormalise: bool) -> None:
    config = tiny_config(norm_topk_prob=renormalise, routed_scaling_factor=2.5)
    affinities = torch.rand(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen = choose_experts(affinities, torch.linspace(1, -1, 8, dtype=torch.float64), config)
    weights = expert_weights(affinities, chosen, config)
    for token in range(6):
        picked = [float(affinities[token, e]) for e in chosen[token]]
        total = sum(picked) if renormalise else 1.0
        assert weights[token].tolist() == pytest.approx([2.5 * s / total for s in picked], rel=1e-12)


def test_the_gates_bias_moves_the_choice_and_never_the_weights_or_a_gradient() -> None:
    block = tiny_model(dtype=torch.float64).gates()[0]
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        block.gate.bias_E.zero_()
        plain = block.gate(x)
        block.gate.bias_E[5] = 10.0
    routing = block.gate(x)
    assert (routing.experts_TK == 5).any(1).all() and not (plain.experts_TK == 5).any(1).all()
    logits = x @ block.gate.weight_ED.double().t()
    expected = torch.sigmoid(logits)
    assert torch.allclose(routing.affinities_TE, expected, rtol=1e-12)
    for token in range(7):
        picked = expected[token, routing.experts_TK[token]]
        assert torch.allclose(routing.weights_TK[token], 2.5 * picked / picked.sum(), rtol=1e-12)
    routing.weights_TK.square().sum().backward()
    assert block.gate.bias_E.grad is None and block.gate.weight_ED.grad is not None


def test_affinities_are_float32_in_a_bfloat16_model() -> None:
    block = tiny_model(dtype=torch.bfloat16).gates()[0]
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    routing = block.gate(x)
    assert routing.affinities_TE.dtype == routing.weights_TK.dtype == torch.float32
    expected = torch.sigmoid(x.float() @ block.gate.weight_ED.float().t())
    assert torch.equal(routing.affinities_TE, expected)


def test_loads_are_counted_by_hand_and_padding_is_no_load() -> None:
    experts = torch.randint(8, (3, 5, 2), generator=torch.Generator().manual_seed(0))
    valid = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    expected = [0.0] * 8
    for row in range(3):
        for place in range(5):
            for choice in range(2):
                expected[int(experts[row, place, choice])] += bool(valid[row, place])
    assert count_loads(experts, valid, 8).tolist() == expected


def balance_by_loop(affinities: list[list[float]], choices: int) -> float:
    """Equations 17 to 20 for one sequence: alpha left out."""
    length, experts = len(affinities), len(affinities[0])
    total = 0.0
    for i in range(experts):
        ranked = 0
        for row in affinities:
            best = sorted(range(experts), key=lambda j: -row[j])[:choices]
            ranked += i in best
        f = experts / (choices * length) * ranked
        p = sum(row[i] / sum(row) for row in affinities) / length
        total += f * p
    return total


def test_sequence_balance_is_equations_17_to_20_and_does_not_see_padding() -> None:
    affinities = torch.rand(3, 7, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    valid = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False] * 7])
    balance = sequence_balance(affinities, 3, valid)
    assert float(balance[0]) == pytest.approx(balance_by_loop(affinities[0].tolist(), 3), rel=1e-12)
    assert float(balance[1]) == pytest.approx(balance_by_loop(affinities[1, :4].tolist(), 3), rel=1e-12)
    assert float(balance[2]) == 0.0


def test_sequence_balance_is_one_at_perfect_balance_and_its_gradient_lowers_it() -> None:
    perfect = torch.full((1, 8, 8), 0.1, dtype=torch.float64)
    perfect[0, torch.arange(8), torch.arange(8)] = 0.9
    assert float(sequence_balance(perfect, 1, torch.ones(1, 8, dtype=torch.bool))) == pytest.approx(1.0)
    logits = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits[..., 0] += 2.0
    logits.requires_grad_()
    everywhere = torch.ones(1, 16, dtype=torch.bool)
    before = sequence_balance(logits.sigmoid(), 2, everywhere).sum()
    (slope,) = torch.autograd.grad(before, logits)
    after = sequence_balance((logits - 0.5 * slope).sigmoid(), 2, everywhere).sum()
    assert before.item() > 1.1 and after.item() < before.item()


def test_the_bias_rises_where_load_is_low_falls_where_it_is_high_and_stays_at_the_mean() -> None:
    bias = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
    loads = torch.tensor([10.0, 2.0, 6.0, 6.0])
    expected = [0.1 - 0.001, -0.2 + 0.001, 0.3, 0.0]
    assert updated_bias(bias, loads, 0.001).tolist() == pytest.approx(expected, abs=1e-12)


def test_max_violation_is_the_largest_excess_over_the_mean() -> None:
    assert max_violation(torch.tensor([3.0, 3.0, 3.0])) == 0.0
    assert max_violation(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx(1.0)
    assert max_violation(torch.zeros(4)) == 0.0


def test_biases_alone_even_out_a_skewed_gate() -> None:
    """The update drives every load to the mean and touches no affinity: auxiliary-loss-free balancing's claim."""
    config = tiny_config(n_group=1, topk_group=1)
    generator = torch.Generator().manual_seed(0)
    affinities = torch.sigmoid(torch.randn(2000, 8, generator=generator) + torch.linspace(-1, 1, 8))
    bias = torch.zeros(8)
    everywhere = torch.ones(1, 2000, dtype=torch.bool)
    violations = []
    for _ in range(400):
        loads = count_loads(choose_experts(affinities, bias, config).unsqueeze(0), everywhere, 8)
        violations.append(max_violation(loads))
        bias = updated_bias(bias, loads, 0.001)
    assert violations[0] > 0.5 and violations[-1] < 0.05
    assert math.isclose(float(loads.sum()), 2000 * config.num_experts_per_tok)
