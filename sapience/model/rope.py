"""Rotary positions, plain and stretched by YaRN, as DeepSeek-V3 computes them (report, section 4.3; Peng et al. 2023).

Pairs are adjacent elements (2i, 2i+1), treated as one complex number; the released checkpoints are laid out so.
"""

import math

import torch
from torch import Tensor

from sapience.recipe.model import ModelSection, RopeScaling


def correction_dimension(rotations: float, width: int, theta: float, original_length: int) -> float:
    """The (fractional) pair that turns `rotations` times over the original context (YaRN, eq. 17 solved for the index)."""
    return width * math.log(original_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def correction_range(scaling: RopeScaling, width: int, theta: float) -> tuple[int, int]:
    """Pairs between which YaRN ramps from untouched to interpolated; 10 and 23 at V3's settings (width 64)."""
    length = scaling.original_max_position_embeddings
    low = math.floor(correction_dimension(scaling.beta_fast, width, theta, length))
    high = math.ceil(correction_dimension(scaling.beta_slow, width, theta, length))
    return max(low, 0), min(high, width - 1)


def rotary_frequencies(config: ModelSection) -> Tensor:
    """Angle per position of each rotary pair, float64 of shape [P/2].

    theta_i = base^(-2i/P); under YaRN divided by s for slow pairs, untouched for fast ones, a linear ramp between.
    """
    width, theta = config.qk_rope_head_dim, config.rope_theta
    pairs = torch.arange(width // 2, dtype=torch.float64)
    plain = theta ** (-2 * pairs / width)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    low, high = correction_range(scaling, width, theta)
    ramp = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def yarn_mscale(factor: float, mscale: float) -> float:
    """0.1 m ln s + 1: YaRN's square root of the inverse temperature."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def softmax_scale(config: ModelSection) -> float:
    """Factor on the attention scores: 1/sqrt(head width), times mscale squared under YaRN (0.135234 at V3's settings)."""
    scale = float(config.qk_head_dim**-0.5)
    scaling = config.rope_scaling
    return scale if scaling is None else scale * yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2


def rotary_table(config: ModelSection, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, P/2] in float32, scaled by mscale / mscale_all_dim (one at V3's settings)."""
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rotary_frequencies(config))
    ratio = 1.0
    scaling = config.rope_scaling
    if scaling is not None:
        ratio = yarn_mscale(scaling.factor, scaling.mscale) / yarn_mscale(scaling.factor, scaling.mscale_all_dim)
    cosines, sines = angles.cos() * ratio, angles.sin() * ratio
    return cosines.float().to(device), sines.float().to(device)
