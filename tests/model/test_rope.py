"""Rotary positions and YaRN against loops over complex numbers, and the figures at V3's own settings."""

import cmath
import math

import pytest
import torch
from tiny_models import tiny_config

from sapience.model.rope import correction_range, rotary_frequencies, rotary_table, softmax_scale, yarn_mscale
from sapience.ops.rotary import rotate
from sapience.recipe.model import ModelSection, RopeScaling

V3_SCALING = RopeScaling(factor=40, original_max_position_embeddings=4096)
V3 = ModelSection(qk_nope_head_dim=128, qk_rope_head_dim=64, rope_scaling=V3_SCALING)


def test_v3_settings_give_the_published_scale_and_range() -> None:
    assert softmax_scale(V3) == pytest.approx(0.135234, abs=5e-7)
    assert yarn_mscale(40, 1.0) == pytest.approx(1.36889, abs=5e-6)
    assert correction_range(V3_SCALING, 64, 10000.0) == (10, 23)
    assert softmax_scale(V3.model_copy(update={"rope_scaling": None})) == pytest.approx(192**-0.5)


def frequencies_by_loop(width: int, theta: float, scaling: RopeScaling | None) -> list[float]:
    """YaRN pair by pair: how often a pair turns over the original context decides how far it is slowed down."""
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if scaling is None:
        return plain
    length = scaling.original_max_position_embeddings

    def pair(turns: float) -> float:
        return width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair(scaling.beta_fast)), 0)
    high = min(math.ceil(pair(scaling.beta_slow)), width - 1)
    slowed = []
    for i, frequency in enumerate(plain):
        ramp = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
        slowed.append(frequency / scaling.factor * ramp + frequency * (1 - ramp))
    return slowed


@pytest.mark.parametrize(
    "config",
    [
        V3,
        tiny_config(qk_rope_head_dim=16),
        tiny_config(qk_rope_head_dim=16, rope_scaling={"factor": 40, "original_max_position_embeddings": 128}),
        tiny_config(qk_rope_head_dim=4, rope_scaling={"factor": 2.5, "original_max_position_embeddings": 16}),
        tiny_config(rope_theta=500.0, rope_scaling={"factor": 8, "original_max_position_embeddings": 6}),
    ],
    ids=["v3", "plain", "demo", "narrow", "a context shorter than one turn"],
)
def test_frequencies_are_the_loops(config: ModelSection) -> None:
    expected = frequencies_by_loop(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)
    assert rotary_frequencies(config).tolist() == pytest.approx(expected, rel=1e-12)


def test_yarn_leaves_fast_pairs_alone_and_divides_slow_ones() -> None:
    plain = rotary_frequencies(V3.model_copy(update={"rope_scaling": None}))
    stretched = rotary_frequencies(V3)
    assert torch.equal(stretched[:11], plain[:11])
    assert torch.allclose(stretched[23:], plain[23:] / 40, rtol=1e-14)
    assert ((plain / stretched)[10:24].diff() > 0).all()


def test_rotation_turns_adjacent_pairs_as_complex_numbers() -> None:
    config = tiny_config(qk_rope_head_dim=6)
    cosines, sines = rotary_table(config, 9)
    x = torch.randn(2, 9, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = rotate(x, cosines, sines)
    frequencies = frequencies_by_loop(6, config.rope_theta, None)
    for row in range(2):
        for position in range(9):
            for head in range(3):
                for pair in range(3):
                    before = complex(*x[row, position, head, 2 * pair : 2 * pair + 2].tolist())
                    after = before * cmath.exp(1j * position * frequencies[pair])
                    got = complex(*turned[row, position, head, 2 * pair : 2 * pair + 2].tolist())
                    assert abs(got - after) < 1e-6


def test_a_score_depends_on_the_distance_alone() -> None:
    config = tiny_config(qk_rope_head_dim=8, rope_scaling={"factor": 8, "original_max_position_embeddings": 16})
    cosines, sines = rotary_table(config, 60)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator, dtype=torch.float64).expand(60, 1, 8) for _ in range(2))
    scores = rotate(q, cosines, sines)[:, 0] @ rotate(k, cosines, sines)[:, 0].t()
    for distance in (0, 1, 7, 31):
        along = scores.diagonal(-distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-5)


def test_the_table_is_scaled_by_the_ratio_of_the_two_mscales() -> None:
    scaling = {"factor": 8, "original_max_position_embeddings": 16, "mscale": 0.707, "mscale_all_dim": 0.9}
    cosines, _ = rotary_table(tiny_config(rope_scaling=scaling), 4)
    ratio = (0.1 * 0.707 * math.log(8) + 1) / (0.1 * 0.9 * math.log(8) + 1)
    assert cosines[0].tolist() == pytest.approx([ratio, ratio], rel=1e-6)
