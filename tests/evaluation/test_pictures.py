"""Pictures: marks stand where the values say, ticks are round, text is escaped."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.evaluation.bar_chart import Bar, bar_chart
from sapience.evaluation.drawing import COLOURS, tick_label, ticks
from sapience.evaluation.heat_map import load_map, share_map
from sapience.evaluation.line_chart import Series, line_chart, thinned
from sapience.evaluation.wording import amount, duration, listing, percent, size


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_even_and_inside(low: float, span: float) -> None:
    high = low + span
    values = ticks(low, high)
    assert 1 <= len(values) <= 6
    assert all(low - span * 1e-6 <= value <= high + span * 1e-6 for value in values)
    if len(values) > 1:
        step = values[1] - values[0]
        lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert any(lead == pytest.approx(round_one, rel=1e-4) for round_one in (1, 2, 5, 10))


def test_tick_labels_are_short() -> None:
    assert [tick_label(v) for v in (0, 0.003, 2.5, 5000, 20_000, 1_500_000, 7.3e-6)] == [
        "0", "0.003", "2.5", "5000", "20K", "1.5M", "7.3e-06",
    ]  # fmt: skip


def test_curve_points_keep_the_order_and_proportion_of_values() -> None:
    svg = line_chart([Series("a", [(0, 1.0), (10, 3.0), (20, 2.0)])], "step", "loss", "a curve")
    points = re.search(r'points="([^"]*)"', svg)
    assert points is not None
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, point.split(","))) for point in points[1].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y1) == pytest.approx(2 * (y0 - y2), abs=0.3)  # up is smaller in SVG
    assert "a curve" in svg


def test_more_bars_than_colours_begin_again_with_the_first() -> None:
    names = [f"model {place}" for place in range(COLOURS + 2)]
    svg = bar_chart([("family", [Bar(place, 0.5) for place, _ in enumerate(names)])], names, percent, "bars")
    used = re.findall(r'class="(?:bar|key) c(\d+)', svg)
    assert len(used) == 2 * len(names) and set(map(int, used)) == set(range(COLOURS))


def test_values_that_are_not_finite_are_left_out() -> None:
    svg = line_chart([Series("a", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])], "x", "y", "d")
    assert "nan" not in svg and "inf" not in svg
    assert line_chart([Series("a", [(0, math.nan)])], "x", "y", "d") == ""


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_the_mean(values: list[float], limit: int) -> None:
    points = list(enumerate(values))
    thin = thinned(points, limit)
    assert len(thin) <= max(limit, 1)
    sizes = [len(values) // len(thin), len(values) // len(thin) + 1]
    assert min(values) - 1e-9 <= min(y for _, y in thin)
    if len(values) % len(thin) == 0 and sizes:
        assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_bar_lengths_are_proportional() -> None:
    svg = bar_chart([("one", [Bar(0, 1.0)]), ("two", [Bar(0, 2.0)])], ["n"], str, "bars")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="[\d.]+" rx="2" class="bar', svg)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


def test_heat_maps_write_shares_and_leave_gaps() -> None:
    svg = share_map(["0%", "<b>"], ["128"], [[0.5], [None]], "depth", "length", "d")
    assert svg.count('class="heat"') == 1
    assert "50\u00a0%" in svg and "&lt;b&gt;" in svg and "<b>" not in svg


def test_even_loads_have_no_colour() -> None:
    assert 'class="hot"' not in load_map([1, 2], [[5, 5, 5], [7, 7, 7]], "d")
    svg = load_map([1], [[1.0, 3.0]], "d")
    assert svg.count('class="hot"') == 1 and svg.count('class="cold"') == 1
    assert "expert 2: 1.50 of the even share" in svg


def test_figures_as_words() -> None:
    assert [percent(x) for x in (0, 0.004, 0.5, 0.974, 0.996, 1)] == [
        "0\u00a0%", "0.4\u00a0%", "50\u00a0%", "97\u00a0%", "99.6\u00a0%", "100\u00a0%",
    ]  # fmt: skip
    assert [duration(x) for x in (0.5, 42.4, 365, 12_000)] == ["0.5 s", "42 s", "6 min 05 s", "3 h 20 min"]
    assert [amount(x) for x in (12, 1234, 3_890_000, 14.8e12)] == [
        "12",
        "1,234",
        "3.89 million",
        "14.8 trillion",
    ]
    assert [size(x) for x in (10, 5_400_000)] == ["10 bytes", "5.4 MB"]
    assert [listing(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
