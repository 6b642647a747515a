"""The parts that pictures of timelines are made of: a white sheet with a title, labelled boxes, a legend."""

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape


def sheet(title: str, width: float, height: float, parts: Iterable[str], heading: str | None = None) -> str:
    """An SVG document on white, so that it reads on a dark page too. `heading`: what is written over it, the title if None."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    opening = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    return "\n".join([*opening, text(8, 20, title if heading is None else heading, 13), *parts, "</svg>"]) + "\n"


def text(x: float, y: float, said: str, size: int | None = None) -> str:
    """A line of words that begins at x."""
    sized = "" if size is None else f' font-size="{size}"'
    return f'<text x="{x:g}" y="{y:g}"{sized}>{escape(said)}</text>'


def box(x: float, y: float, wide: float, high: float, colour: str, said: str, tip: str) -> str:
    """A box with words in its middle, and what a pointer over it is told."""
    return (
        f'<g><title>{escape(tip)}</title><rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" '
        f'fill="{colour}" stroke="#ffffff"/>'
        f'<text x="{x + wide / 2:g}" y="{y + high - 6:g}" text-anchor="middle">{escape(said)}</text></g>'
    )


def legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Colours and what they mean, in a row."""
    parts = []
    for colour, meaning in entries:
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="10" height="10" fill="{colour}"/>')
        parts.append(text(x + 14, y + 9, meaning))
        x += 30 + 5 * len(meaning)
    return parts
