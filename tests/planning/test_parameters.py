"""Counts from the recipe equal the built model's, and the work of a token follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sapience.planning.parameters import count_parameters, training_operations
from sapience.planning.post_training import post_training_seconds
from sapience.recipe import load_recipe
from sapience.recipe.model import ModelSection

DEMO = Path(__file__).parent.parent.parent / "recipes" / "demo.yaml"

CASES = [
    ModelSection(),
    ModelSection(q_lora_rank=32, num_nextn_predict_layers=2, tie_word_embeddings=True),
    ModelSection(n_shared_experts=0, num_nextn_predict_layers=0, first_k_dense_replace=0),
    ModelSection(hidden_size=64, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=4, first_k_dense_replace=4),
]  # fmt: skip


@pytest.mark.parametrize("model", CASES)
def test_total_equals_the_built_model(model: ModelSection) -> None:
    torch = pytest.importorskip("torch")
    from sapience.model.transformer import Transformer

    with torch.device("meta"):
        built = Transformer(model)
    assert count_parameters(model).total == sum(parameter.numel() for parameter in built.parameters())


def test_deepseek_v3_has_its_published_sizes() -> None:
    """671B in all and 37B active, as the report says (section 4.2)."""
    v3 = ModelSection(
        vocab_size=129280, hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048, num_hidden_layers=61,
        num_attention_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
        v_head_dim=128, n_routed_experts=256, num_experts_per_tok=8, n_group=8, topk_group=4, first_k_dense_replace=3,
    )  # fmt: skip
    count = count_parameters(v3)
    assert round(count.main / 1e9) == 671
    assert 36.5e9 < count.active < 38e9


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
