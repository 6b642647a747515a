"""Wilson's interval: against the roots of its defining equation, and at the edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.evaluation.scoring import score_of, share_difference, wilson_interval


@given(st.integers(1, 500), st.data())
def test_bounds_solve_the_defining_equation(problems: int, data: st.DataObject) -> None:
    """Each bound b is where |share - b| is 1.96 standard errors of b."""
    right = data.draw(st.integers(0, problems))
    share = right / problems
    low, high = wilson_interval(right, problems)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            distance = 1.959963984540054 * (bound * (1 - bound) / problems) ** 0.5
            assert abs(share - bound) == pytest.approx(distance, rel=1e-6, abs=1e-9)


def test_known_values_and_edges() -> None:
    assert wilson_interval(10, 20) == pytest.approx((0.2993, 0.7007), abs=5e-4)
    assert wilson_interval(0, 40)[0] == 0.0
    assert wilson_interval(0, 40)[1] == pytest.approx(0.0876, abs=5e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_score_of_verdicts() -> None:
    score = score_of([True, False, True, True])
    assert (score.right, score.problems, score.accuracy) == (3, 4, 0.75)
    assert score_of([]).accuracy == 0.0


def test_difference_of_shares_is_newcombes() -> None:
    """The published example: 56 of 70 against 48 of 80 (Newcombe 1998, table II, method 10)."""
    a, b = score_of([True] * 56 + [False] * 14), score_of([True] * 48 + [False] * 32)
    difference, low, high = share_difference(a.accuracy, a.interval, b.accuracy, b.interval)
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(0, 40), st.integers(0, 40))
def test_difference_of_shares_turns_around(right: int, other: int) -> None:
    a, b = score_of([True] * right + [False] * (40 - right)), score_of([True] * other + [False] * (40 - other))
    difference, low, high = share_difference(a.accuracy, a.interval, b.accuracy, b.interval)
    assert -1 <= low <= difference <= high <= 1
    back = share_difference(b.accuracy, b.interval, a.accuracy, a.interval)
    assert back == pytest.approx((-difference, -high, -low))
    if right == other:
        assert low <= 0 <= high
