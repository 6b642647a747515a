"""Counts from the recipe equal the built model's, and the work of a token follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapience.planning.parameters import (
    ParameterCount,
    cache_bytes,
    count_parameters,
    forward_operations,
    lookups,
    main_parts,
    prediction_parts,
    training_operations,
)
from sapience.planning.post_training import post_training_seconds
from sapience.recipe import load_recipe
from sapience.recipe.model import ModelSection

RECIPES = Path(__file__).parent.parent.parent / "recipes"
DEMO = RECIPES / "demo.yaml"

CASES = [
    ModelSection(),
    ModelSection(q_lora_rank=32, num_nextn_predict_layers=2, tie_word_embeddings=True),
    ModelSection(n_shared_experts=0, num_nextn_predict_layers=0, first_k_dense_replace=0),
    ModelSection(hidden_size=64, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=4, first_k_dense_replace=4),
]  # fmt: skip


PARTS = (
    ("norm", "norms"), ("attention", "attention"), ("join", "joins"), ("gate.weight_ED", "gates"),
    ("shared.", "shared_experts"), ("experts.", "routed_experts"), ("feed_forward", "dense_feed_forward"),
    ("embedding", "embedding"), ("head", "head"),
)  # fmt: skip
"""What is in a parameter's name -> its part; the first that fits counts."""


@pytest.mark.parametrize("model", CASES)
def test_total_equals_the_built_model(model: ModelSection) -> None:
    torch = pytest.importorskip("torch")
    from sapience.model.transformer import Transformer

    with torch.device("meta"):
        built = Transformer(model)
    assert count_parameters(model).total == sum(parameter.numel() for parameter in built.parameters())
    counted: dict[str, int] = {}
    for name, parameter in built.named_parameters():
        part = next(part for mark, part in PARTS if mark in name)
        where = "predictions" if name.startswith("predictions") else "main"
        counted[f"{where} {part}"] = counted.get(f"{where} {part}", 0) + parameter.numel()
    told = {f"main {name}": count for name, count in main_parts(model).items()}
    told |= {f"predictions {name}": count for name, count in prediction_parts(model).items()}
    assert told == counted


def test_deepseek_v3_built_on_the_meta_device_has_its_published_sizes() -> None:
    """671,026 M in the main model, 37.55 B active with both tables (36.63 B without the embedding), 11.61 B in the
    prediction module, 70,272 bytes of cache a token (report, section 4.2; README_WEIGHTS; ISCA, table 1)."""
    torch = pytest.importorskip("torch")
    from sapience.model.attention import LatentAttention
    from sapience.model.transformer import Transformer

    v3 = load_recipe(RECIPES / "v3-671b.yaml").model
    with torch.device("meta"):
        built = Transformer(v3)
    prediction = sum(parameter.numel() for parameter in built.predictions.parameters())
    main = sum(parameter.numel() for parameter in built.parameters()) - prediction
    expert = built.layers[3].experts
    idle = sum(p[0].numel() for p in expert.parameters()) * (256 - 8) * 58  # type: ignore[union-attr, index]
    assert main // 10**6 == 671_026
    assert round((main - idle) / 1e9, 2) == 37.55
    assert round((main - idle - built.embedding.weight.numel()) / 1e9, 2) == 36.63
    assert round(prediction / 1e9, 2) == 11.61
    cached = 0
    for layer in built.layers:
        attention = layer.attention
        assert isinstance(attention, LatentAttention)
        with torch.device("meta"):
            latents = attention.latents(torch.empty(1, 1, 7168), torch.empty(1, 32), torch.empty(1, 32))
        cached += sum(tensor.numel() * 2 for tensor in latents)
    assert cached == 70_272 == cache_bytes(v3)
    assert count_parameters(v3) == ParameterCount(main, main - idle, prediction, prediction - idle // 58)


def test_the_16b_relative_has_its_published_sizes() -> None:
    """15.7 B, of which 2.4 B are active (report, table 4; without the embedding, which is a lookup)."""
    torch = pytest.importorskip("torch")
    from sapience.model.transformer import Transformer

    lite = load_recipe(RECIPES / "v3-lite-16b.yaml").model
    with torch.device("meta"):
        built = Transformer(lite)
    count = count_parameters(lite)
    assert count.total == sum(parameter.numel() for parameter in built.parameters())
    assert round(count.main / 1e9, 1) == 15.7
    assert 2.4e9 <= count.active - lookups(lite) < 2.5e9


def test_v3_costs_250_gflop_a_token() -> None:
    """ISCA, table 2: training DeepSeek-V3 at a context of 4096, the prediction module not counted."""
    main, prediction = forward_operations(load_recipe(RECIPES / "v3-671b.yaml").model, 4096)
    assert round(3 * main / 1e9) == 250 and prediction > 0


def test_active_weights_differ_by_the_experts_that_are_not_chosen() -> None:
    model = ModelSection()
    count = count_parameters(model)
    expert = 3 * model.hidden_size * model.moe_intermediate_size
    idle = model.n_routed_experts - model.num_experts_per_tok
    assert count.main - count.active == 3 * idle * expert
    assert count.mtp - count.mtp_active == idle * expert


def test_work_grows_with_length_by_attention_alone() -> None:
    model = ModelSection()
    growth = training_operations(model, 300) - training_operations(model, 100)
    assert growth == 6 * 5 * 100 * model.num_attention_heads * (model.qk_head_dim + model.v_head_dim)


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("specialise.policy.iterations=1000", "specialise"),
        ("specialise.supervised.epochs=100", "specialise"),
        ("distill.draws=64", "distill"),
        ("finetune.repeats.everyday=20", "finetune"),
        ("reward.problem_prompts=9000", "reward"),
        ("reinforce.policy.samples=64", "reinforce"),
    ],
)
def test_more_post_training_takes_longer_in_its_own_stage_only(change: str, stage: str) -> None:
    rate = 1e11
    demo, more = load_recipe(DEMO), load_recipe(DEMO, [change])
    stages = {"distill", "review", "finetune", "reward", "reinforce", "specialise"}
    for name in sorted(stages - {"review"}):
        chosen = {name, "review"}
        before, after = (post_training_seconds(recipe, chosen, rate) for recipe in (demo, more))
        assert (after > 1.5 * before) if name == stage else (after == before), name
    assert post_training_seconds(demo, set(), rate) == 0
