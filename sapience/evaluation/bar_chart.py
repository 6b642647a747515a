"""Horizontal bars: scores with their intervals, seconds by stage, bytes per token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sapience.evaluation.drawing import COLOURS, WIDTH, Scale, label, legend, picture, rectangle, straight, text_width


@dataclass(frozen=True)
class Bar:
    """One bar: series number, value, and its interval where it has one."""

    series: int
    value: float
    interval: tuple[float, float] | None = None


def bar_chart(
    rows: Sequence[tuple[str, Sequence[Bar]]],
    names: Sequence[str],
    written: Callable[[float], str],
    description: str,
    *,
    highest: float | None = None,
) -> str:
    """Rows of bars, one bar per series; the value is written at the end of each, an interval drawn as a thin
    line."""
    left = min(190.0, 12 + max(text_width(name, 12.5) for name, _ in rows))
    keys, top = "", 6.0
    if len(names) > 1:
        keys, used = legend([(name, f"c{place % COLOURS}") for place, name in enumerate(names)], left, 2, WIDTH - left)
        top += used
    values = [bound for _, bars in rows for bar in bars for bound in (bar.value, *(bar.interval or ()))]
    room = 12 + max(text_width(written(value)) for value in values)
    scale = Scale(0.0, highest or max(values) or 1.0, left, WIDTH - room)
    thick = 15.0 if len(names) == 1 else 11.0
    parts = [keys]
    y = top
    for name, bars in rows:
        middle = y + thick * len(bars) / 2
        parts.append(label(left - 8, middle + 4, name, "bar-name", "end"))
        for bar in bars:
            parts.append(_bar(bar, y, thick, scale, left, written, f"{name}, {names[bar.series]}"))
            y += thick
        y += 8
    parts.append(straight(left, top, left, y - 8, "axis"))
    return picture(y, description, "".join(parts))


def _bar(
    bar: Bar, y: float, thick: float, scale: Scale, left: float, written: Callable[[float], str], name: str
) -> str:
    end = scale(bar.value)
    told = f"{name}: {written(bar.value)}"
    value_at = end
    whisker = ""
    if bar.interval is not None:
        low, high = (scale(bound) for bound in bar.interval)
        whisker = straight(low, y + thick / 2, high, y + thick / 2, "whisker")
        told += f" (95 % interval {written(bar.interval[0])} to {written(bar.interval[1])})"
        value_at = max(end, high)
    return (
        rectangle(left, y + 1, end - left, thick - 2, f'rx="2" class="bar c{bar.series % COLOURS}"', told)
        + whisker
        + label(value_at + 5, y + thick / 2 + 4, written(bar.value), "value", "start")
    )
