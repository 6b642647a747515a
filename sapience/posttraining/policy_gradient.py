"""The mathematics of GRPO, each formula one function (DeepSeek-V3 report, equations 26-28; DeepSeekMath, eq. 3).

Everything is a *sum* over tokens with explicit weights; the caller divides by one denominator for the whole step. One
mask, the answer's generated length, serves numerator, denominator and figures.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

LARGEST_CORRECTION = 2.0
"""Truncation of the importance ratio between trainer and engine."""


def advantages(rewards: Sequence[float], normalize: bool = True) -> list[float] | None:
    """A_i = (r_i - mean) / std over a prompt's answers (eq. 28; population deviation); None where all are equal."""
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / len(rewards))
    if deviation <= 1e-6 * max(1.0, *map(abs, rewards)):
        return None
    return [(r - mean) / (deviation if normalize else 1.0) for r in rewards]


def k3(policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """pi_ref/pi - log(pi_ref/pi) - 1 per token (eq. 27): never negative, unbiased for the KL of policy from reference."""
    log_ratio_N = reference_N - policy_N
    return log_ratio_N.exp() - log_ratio_N - 1


def surrogate(policy_N: Tensor, old_N: Tensor, advantage_N: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1-eps, 1+eps) A) per token (inside eq. 26), with rho = pi / pi_old."""
    ratio_N = (policy_N - old_N).exp()
    return torch.minimum(ratio_N * advantage_N, ratio_N.clamp(1 - clip, 1 + clip) * advantage_N)


def correction(trainer_N: Tensor, engine_N: Tensor, bound: float) -> Tensor:
    """Weight of a token that the engine drew with another probability than the trainer gives it.

    One within `bound` nats; beyond, the importance ratio pi_trainer / pi_engine, truncated at 2.
    """
    difference_N = trainer_N - engine_N
    return torch.where(difference_N.abs() <= bound, 1.0, difference_N.exp().clamp(max=LARGEST_CORRECTION))


def token_weight(length: int, aggregate: Literal["sequence", "token"]) -> float:
    """What each of an answer's `length` tokens counts: 1/|o| where answers are averaged (eq. 3), one where tokens are."""
    return 1.0 / length if aggregate == "sequence" else 1.0


def denominator(lengths: Sequence[int], aggregate: Literal["sequence", "token"]) -> float:
    """What the weighted sum over all answers of an update is divided by: their number, or that of their tokens."""
    return float(len(lengths) if aggregate == "sequence" else sum(lengths))
