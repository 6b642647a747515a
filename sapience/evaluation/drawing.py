"""The parts all pictures of the report are made of: frame, scales, ticks, legend, as inline SVG.

Drawn by hand instead of by a plotting library because the colours have to follow the reader's light or dark
mode and print: every mark has a CSS class, the page decides the colour. All text that comes from data goes
through `escape`. Pictures are 420 units wide, so that text stays readable on a phone without scrolling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420
COLOURS = 8
"""Number of series colours the page defines; classes c0 to c7."""


@dataclass(frozen=True)
class Scale:
    """A straight map from data values `low..high` to picture coordinates `start..end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (value - self.low) / (span or 1.0) * (self.end - self.start)


def number(value: float) -> str:
    """A coordinate with at most one decimal place, which is finer than a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within `low..high`, about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def tick_label(value: float) -> str:
    """Short form of an axis value: 1500000 as 1.5M, 20000 as 20K, 0.003 as 0.003."""
    size = abs(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "K")):
        if size >= limit:
            unit = 1e3 if letter == "K" else limit
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def label(x: float, y: float, content: str, kind: str = "tick", anchor: str = "middle") -> str:
    """A piece of text; `content` is escaped here."""
    place = f'x="{number(x)}" y="{number(y)}"'
    return f'<text {place} class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def upright(x: float, y: float, content: str) -> str:
    """An axis label that reads from bottom to top; `content` is escaped here."""
    turn = f'transform="translate({number(x)} {number(y)}) rotate(-90)"'
    return f'<text {turn} class="axis-label" text-anchor="middle">{escape(content)}</text>'


def rectangle(x: float, y: float, width: float, height: float, attributes: str, told: str) -> str:
    """A rectangle; `told` is what the mouse shows over it, escaped here."""
    place = f'x="{number(x)}" y="{number(y)}" width="{width:.2f}" height="{number(max(0.0, height))}"'
    return f"<rect {place} {attributes}><title>{escape(told)}</title></rect>"


def straight(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line of a CSS class."""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} class="{style}"/>'


def text_width(content: str, size: float = 11) -> float:
    """About how wide a text is; wide scripts count double."""
    return size * sum(1.0 if ord(letter) > 0x2E80 else 0.6 for letter in content)


def legend(names: Sequence[tuple[str, str]], left: float, top: float, width: float) -> tuple[str, float]:
    """Swatches with names, (name, CSS class) each, in rows; returns the SVG and the height used."""
    parts: list[str] = []
    x, y = left, top + 9
    for name, style in names:
        needed = 26 + text_width(name)
        if x + needed > left + width and x > left:
            x, y = left, y + 17
        parts.append(straight(x, y - 4, x + 16, y - 4, f"key {style}"))
        parts.append(label(x + 21, y, name, "legend", "start"))
        x += needed + 8
    return "".join(parts), (y - top + 8 if names else 0.0)


def picture(height: float, description: str, body: str) -> str:
    """The SVG element around a picture's marks, with a description for those who cannot see it."""
    told = escape(description, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{told}">{body}</svg>'
