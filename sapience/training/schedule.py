"""Everything that changes with the step, as pure functions of it: rows, learning rate, gamma, lambda.

Position is measured in rows (tokens), not steps, so that a batch ramp does not shift the curve.
"""

import math
from dataclasses import dataclass

import numpy as np

from sapience.recipe.optimization import BalanceSection, BatchSection, PredictionSection, ScheduleSection


@dataclass(frozen=True)
class StepPlan:
    """What one optimizer step does."""

    first_row: int
    """Its first row of the token stream."""
    rows: int
    learning_rate: float
    gamma: float
    prediction_weight: float


def learning_rate(section: ScheduleSection, share: float) -> float:
    """V3's curve at `share` (0 to 1) of the tokens: warm-up, constant, cosine, two constant tails (section 4.2)."""
    if share < section.warmup:
        return section.peak * share / section.warmup
    if share < section.plateau_end:
        return section.peak
    if share < section.cosine_end:
        progress = (share - section.plateau_end) / (section.cosine_end - section.plateau_end)
        return section.peak * (section.floor + (1 - section.floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    return section.peak * (section.floor if share < section.tail_start else section.tail)


def rows_of_steps(section: BatchSection, steps: int) -> list[int]:
    """Rows of every step: linear from `start_rows` to `rows` over the first `ramp` of the steps."""
    start = section.rows if section.start_rows is None else section.start_rows
    ramp = max(1, round(section.ramp * steps))
    return [round(start + (section.rows - start) * min(1.0, step / ramp)) for step in range(steps)]


def plan_steps(
    steps: int,
    batch: BatchSection,
    schedule: ScheduleSection,
    balance: BalanceSection,
    prediction: PredictionSection,
) -> list[StepPlan]:
    """The whole stage, step by step. The learning rate is taken at the middle of a step, so that none is zero."""
    rows = rows_of_steps(batch, steps)
    starts = np.concatenate(([0], np.cumsum(rows)))
    total = float(starts[-1])
    plans = []
    for step in range(steps):
        share = (float(starts[step]) + rows[step] / 2) / total
        plans.append(
            StepPlan(
                first_row=int(starts[step]),
                rows=rows[step],
                learning_rate=learning_rate(schedule, share),
                gamma=balance.gamma if share < balance.gamma_end else 0.0,
                prediction_weight=prediction.weight if share < prediction.switch else prediction.final_weight,
            )
        )
    return plans
