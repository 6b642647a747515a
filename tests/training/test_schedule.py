"""What changes with the step: V3's published curve at its marks, the batch ramp, and a whole plan against a table."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.recipe.optimization import BalanceSection, BatchSection, PredictionSection, ScheduleSection
from sapience.training.schedule import learning_rate, plan_steps, rows_of_steps

V3 = ScheduleSection()
"""The defaults are V3's: peak 2.2e-4, marks in shares of 14.8T tokens."""


@pytest.mark.parametrize(
    ("trillions", "rate"),
    [
        (0.02, 2.2e-4 * (0.02 / 14.8) / 0.0027),
        (0.05, 2.2e-4),
        (5.0, 2.2e-4),
        (9.999, 2.2e-4),
        (10.0 + 4.3 / 4, 2.2e-5 + (2.2e-4 - 2.2e-5) * 0.5 * (1 + math.cos(math.pi / 4))),
        (10.0 + 4.3 / 2, (2.2e-4 + 2.2e-5) / 2),
        (14.2999, 2.2e-5),
        (14.5, 2.2e-5),
        (14.632, 2.2e-5),
        (14.634, 7.3e-6),
        (14.8, 7.3e-6),
    ],
)
def test_v3s_curve(trillions: float, rate: float) -> None:
    assert learning_rate(V3, trillions / 14.8) == pytest.approx(rate, rel=1e-4)


def test_the_cosine_meets_both_plateaus() -> None:
    for mark in (V3.plateau_end, V3.cosine_end):
        assert learning_rate(V3, mark - 1e-9) == pytest.approx(learning_rate(V3, mark + 1e-9), rel=1e-6)


@given(st.floats(0, 1))
def test_the_rate_is_positive_and_never_above_the_peak(share: float) -> None:
    assert 0 <= learning_rate(V3, share) <= V3.peak


def test_v3s_gamma_and_lambda_change_at_their_marks() -> None:
    plan = plan_steps(1480, BatchSection(rows=4), V3, BalanceSection(), PredictionSection())
    assert [plan[step].gamma for step in (0, 1429, 1430, 1479)] == [0.001, 0.001, 0.0, 0.0]
    assert [plan[step].prediction_weight for step in (0, 999, 1000, 1479)] == [0.3, 0.3, 0.1, 0.1]


def test_a_ramp_from_2_to_6_over_half_of_8_steps() -> None:
    assert rows_of_steps(BatchSection(rows=6, start_rows=2, ramp=0.5), 8) == [2, 3, 4, 5, 6, 6, 6, 6]


def test_no_ramp() -> None:
    assert rows_of_steps(BatchSection(rows=6, ramp=0.5), 4) == [6, 6, 6, 6]
    assert rows_of_steps(BatchSection(rows=6, start_rows=2, ramp=0.0), 3) == [2, 6, 6]


def test_a_whole_plan_against_a_table() -> None:
    """Eight steps, 36 rows, position taken at a step's middle."""
    plan = plan_steps(
        8,
        BatchSection(rows=6, start_rows=2, ramp=0.5),
        ScheduleSection(peak=1.0, warmup=0.1, plateau_end=0.5, cosine_end=0.8, tail_start=0.9, floor=0.2, tail=0.05),
        BalanceSection(gamma=0.01, gamma_end=0.8),
        PredictionSection(weight=0.3, final_weight=0.1, switch=0.5),
    )
    total = 2 + 3 + 4 + 5 + 6 * 4
    middles = [m / total for m in (1, 3.5, 7, 11.5, 17, 23, 29, 35)]
    cosine = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (m - 0.5) / 0.3)) for m in middles[5:7]]
    rates = [middles[0] / 0.1, middles[1] / 0.1, 1.0, 1.0, 1.0, *cosine, 0.05]
    assert [p.first_row for p in plan] == [0, 2, 5, 9, 14, 20, 26, 32]
    assert [p.rows for p in plan] == [2, 3, 4, 5, 6, 6, 6, 6]
    assert [p.learning_rate for p in plan] == pytest.approx(rates)
    assert [p.gamma for p in plan] == [0.01] * 7 + [0.0]
    assert [p.prediction_weight for p in plan] == [0.3] * 5 + [0.1] * 3


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_steps_take_consecutive_rows(steps: int, first: int, more: int, ramp: float) -> None:
    batch = BatchSection(rows=first + more, start_rows=first, ramp=ramp)
    plan = plan_steps(steps, batch, V3, BalanceSection(), PredictionSection())
    assert len(plan) == steps and plan[0].first_row == 0
    for before, after in pairwise(plan):
        assert after.first_row == before.first_row + before.rows
        assert first <= before.rows <= after.rows <= first + more
    assert all(p.learning_rate > 0 for p in plan)
