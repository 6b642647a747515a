"""Curves: loss, learning rate, bits per byte over training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sapience.evaluation.drawing import (
    WIDTH,
    Scale,
    label,
    legend,
    number,
    picture,
    straight,
    text_width,
    tick_label,
    ticks,
    upright,
)

_RIGHT = 14
_POINTS_WITH_MARKS = 30


@dataclass(frozen=True)
class Series:
    """One curve: (x, y) points in the order of x; y that is not finite breaks nothing, it is left out."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    description: str,
    *,
    height: float = 250,
    from_zero: bool = False,
) -> str:
    """SVG of one or more curves over one x axis; empty where there is no point."""
    drawn = [
        Series(s.name, [(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)], s.colour, s.dashed)
        for s in series
    ]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    bottom, top = (low if from_zero else low - margin), high + margin
    left = 28 + max(text_width(tick_label(value)) for value in ticks(bottom, top))
    keys, used = "", 8.0
    if len(drawn) > 1:
        keys, rows = legend([(s.name, _style(s)) for s in drawn], left, 2, WIDTH - left - _RIGHT)
        used += rows
    x_scale = Scale(min(xs), max(xs), left, WIDTH - _RIGHT)
    y_scale = Scale(bottom, top, height - 40, used + 4)
    parts = [keys, _axes(x_scale, y_scale, height, used, x_label, y_label)]
    parts += [_curve(s, x_scale, y_scale, x_label) for s in drawn]
    return picture(height, description, "".join(parts))


def thinned(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most `limit` points, each the mean of the neighbours it stands for."""
    if len(points) <= limit:
        return list(points)
    bins: list[list[tuple[float, float]]] = [[] for _ in range(limit)]
    for place, point in enumerate(points):
        bins[place * limit // len(points)].append(point)
    return [(sum(x for x, _ in bin) / len(bin), sum(y for _, y in bin) / len(bin)) for bin in bins]


def _style(series: Series) -> str:
    return f"c{series.colour}" + (" dashed" if series.dashed else "")


def _axes(x_scale: Scale, y_scale: Scale, height: float, top: float, x_label: str, y_label: str) -> str:
    left, right, bottom = x_scale.start, x_scale.end, height - 40
    parts = []
    for value in ticks(y_scale.low, y_scale.high):
        y = y_scale(value)
        parts.append(straight(left, y, right, y, "grid"))
        parts.append(label(left - 6, y + 4, tick_label(value), "tick", "end"))
    parts.extend(label(x_scale(value), bottom + 16, tick_label(value)) for value in ticks(x_scale.low, x_scale.high))
    parts.append(straight(left, bottom, right, bottom, "axis"))
    parts.append(label((left + right) / 2, height - 6, x_label, "axis-label"))
    parts.append(upright(11, (top + bottom) / 2, y_label))
    return "".join(parts)


def _curve(series: Series, x_scale: Scale, y_scale: Scale, x_label: str) -> str:
    path = " ".join(f"{number(x_scale(x))},{number(y_scale(y))}" for x, y in series.points)
    parts = [f'<polyline points="{path}" class="curve {_style(series)}"/>']
    if len(series.points) <= _POINTS_WITH_MARKS and not series.dashed:
        for x, y in series.points:
            told = escape(f"{series.name}: {y:.4g} at {x_label} {x:,.0f}")
            place = f'cx="{number(x_scale(x))}" cy="{number(y_scale(y))}"'
            parts.append(f'<circle {place} r="3" class="dot {_style(series)}"><title>{told}</title></circle>')
    return "".join(parts)
