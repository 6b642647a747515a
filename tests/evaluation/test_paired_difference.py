"""Paired differences: against a brute-force bootstrap, the sign test against its definition, and the edges."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.evaluation.comparisons import expert_figures, paired_figures
from sapience.evaluation.measured_models import MeasuredModel
from sapience.evaluation.paired import change, paired_difference, sign_test


def bootstrapped(a: list[bool], b: list[bool], draws: int = 20_000) -> tuple[float, float]:
    """2.5 and 97.5 % points of the mean difference over resampled problems."""
    random = np.random.default_rng(0)
    differences = np.array(a, float) - np.array(b, float)
    means = differences[random.integers(0, len(a), (draws, len(a)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@pytest.mark.parametrize(
    ("size", "first", "second", "together"), [(440, 0.6, 0.4, 0.8), (300, 0.5, 0.5, 0.3), (800, 0.9, 0.7, 0.0)]
)
def test_the_interval_is_the_bootstraps(size: int, first: float, second: float, together: float) -> None:
    """`together` is how often both models meet the same luck: the more, the narrower the interval."""
    random = np.random.default_rng(size)
    luck = random.random(size)
    other = np.where(random.random(size) < together, luck, random.random(size))
    a, b = (luck < first).tolist(), (other < second).tolist()
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (low, high) == pytest.approx(bootstrapped(a, b), abs=0.004)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(1000):
        a, b = random.random(400) < 0.62, random.random(400) < 0.55
        _, low, high = paired_difference(a.tolist(), b.tolist())
        covered += low <= 0.07 <= high
    assert 930 <= covered <= 970


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_exchanging_the_models_turns_the_interval_around(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    difference, low, high = paired_difference(a, b)
    assert -1 <= low <= difference <= high <= 1
    assert paired_difference(b, a) == pytest.approx((-difference, -high, -low))


def test_lists_that_do_not_pair() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([True], [])
    assert paired_difference([], []) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (6, 0), (3, 9), (4, 4)])
def test_the_sign_test_counts_all_ways_the_coins_can_fall(gained: int, lost: int) -> None:
    """Every changed problem is a fair coin; as uneven or more uneven outcomes are counted one by one."""
    falls = [sum(coins) for coins in product((0, 1), repeat=gained + lost)]
    uneven = sum(abs(2 * heads - gained - lost) >= abs(gained - lost) for heads in falls)
    assert sign_test(gained, lost) == pytest.approx(uneven / len(falls))


def test_only_problems_that_both_have_a_verdict_on_are_compared() -> None:
    later = {"a": True, "b": True, "c": False, "only here": True}
    earlier = {"a": False, "b": True, "c": True, "only there": True}
    told = change(later, earlier)
    assert told is not None
    assert (told.difference, told.gained, told.lost, told.reliable) == (0.0, 1, 1, False)
    assert change({"a": True}, {"b": True}) is None


def test_each_model_is_compared_with_the_one_before_it() -> None:
    verdicts = {
        "base": {"maxn": dict.fromkeys("abcdefgh", False)},
        "finetune": {"maxn": dict.fromkeys("abcdefgh", True), "mul1": {"i": True}},
        "reinforce": {"maxn": dict.fromkeys("abcdefgh", True), "mul1": {"i": False}},
        "unasked": {},
    }
    figures = paired_figures(list(verdicts), verdicts)
    assert list(figures["paired"]) == ["finetune_base", "reinforce_finetune"]
    assert figures["paired"]["finetune_base"][0] == 1.0
    assert figures["paired"]["reinforce_finetune"][0] == pytest.approx(-1 / 9)
    gains = figures["paired_families"]["finetune_base"]
    assert list(gains) == ["maxn"]
    assert (gains["maxn"]["gained"], gains["maxn"]["reliable"]) == (8, True)
    assert figures["paired_families"]["reinforce_finetune"]["mul1"]["lost"] == 1
    assert paired_figures(["base"], verdicts) == {}


def test_experts_stand_beside_others_on_their_own_problems() -> None:
    models = [MeasuredModel("finetune", Path(), "assistant"), MeasuredModel("expert-code", Path(), "expert")]
    verdicts = {
        "finetune": {"codefn": {"a": True, "b": False}, "maxn": {"c": True}},
        "expert-code": {"codefn": {"a": True, "b": True}},
    }
    figures = expert_figures(models, verdicts)
    assert figures["expert_accuracy"] == {"code": 1.0}
    assert figures["domain_accuracy"] == {"finetune": {"code": 0.5}}
    assert figures["domain_paired"]["finetune"]["code"][0] == -0.5
    assert expert_figures(models[:1], verdicts) == {}
