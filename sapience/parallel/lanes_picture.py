"""Timelines of lanes to look at: as an SVG picture, one below the other on the same scale, and as lines of letters."""

from collections.abc import Iterator, Sequence

from sapience.parallel.lanes import LANES, LaneTimeline, Task, Work
from sapience.parallel.svg import box, legend, sheet, text

MEANINGS: dict[Work, str] = {
    "forward": "forward", "backward": "backward", "optimizer": "optimizer", "weights": "weights travel",
    "gradients": "gradients of weights travel", "states": "hidden states travel",
    "slopes": "gradients of hidden states travel", "norm": "sums and the gradient's norm",
}  # fmt: skip
LETTERS: dict[Work, str] = {
    "forward": "F", "backward": "B", "optimizer": "O", "weights": "w", "gradients": "g", "states": "h", "slopes": "d",
    "norm": "n",
}  # fmt: skip
_COLOURS: dict[Work, str] = {
    "forward": "#6f9fd8", "backward": "#7fb77e", "optimizer": "#d9c36a", "weights": "#d79bc0", "gradients": "#c98f6b",
    "states": "#b5d0f0", "slopes": "#bfe0b4", "norm": "#9a9a9a",
}  # fmt: skip
_LEFT, _SPAN, _ROW, _RANK, _HEAD = 104, 776, 22, 50, 44
"""Pixels: where boxes begin, how wide the longest timeline is, from lane to lane, from rank to rank, above the first rank."""
_NARROW, _WIDE = " ,.-fijlrt", "ABCDEFGHLNOPSUWXmw"


def said(timeline: LaneTimeline) -> str:
    """Its figures in words."""
    return (
        f"{timeline.end:.4g} in all; arithmetic is idle for {timeline.idle_share:.0%}; "
        f"{timeline.hidden_share:.0%} of what the network does is hidden behind arithmetic"
    )


def meanings(timelines: Sequence[LaneTimeline]) -> Iterator[tuple[Work, str]]:
    """What is done in them, and its meaning."""
    used = {task.work for timeline in timelines for task in timeline.lanes.tasks if task.time}
    return ((work, meaning) for work, meaning in MEANINGS.items() if work in used)


def lines(timeline: LaneTimeline, end: float, columns: int = 100) -> list[str]:
    """Two lines a rank; a letter is what the lane does then, a dot is idle. `end`: of all columns."""
    rows = []
    for rank in range(timeline.lanes.ranks):
        for lane in LANES:
            row = ["."] * round(timeline.end * columns / end)
            for task, begin, stop in timeline.of(rank, lane):
                first, last = round(begin * columns / end), round(stop * columns / end)
                row[first:last] = LETTERS[task.work] * (last - first)
            rows.append(f"{rank if lane == 'arithmetic' else '':>3} {lane:<10} {''.join(row)}")
    return rows


def svg(timelines: Sequence[LaneTimeline]) -> str:
    """The picture: two rows a rank, and under each name the figures. Something has to take time."""
    unit = _SPAN / max(timeline.end for timeline in timelines)
    parts: list[str] = []
    shortened: dict[str, str] = {}
    top = 0
    for number, timeline in enumerate(timelines):
        if number:
            parts.append(text(8, top + 20, timeline.lanes.name, 13))
        parts.append(text(8, top + 35, said(timeline)))
        for rank in range(timeline.lanes.ranks):
            for row, lane in enumerate(LANES):
                y = top + _HEAD + rank * _RANK + row * _ROW
                parts += [text(48, y + 14, lane)] if row else [text(8, y + 14, f"rank {rank}"), text(48, y + 14, lane)]
                for task, begin, end in timeline.of(rank, lane):
                    words = _fitting(task, (end - begin) * unit)
                    if words != task.label and words[:1].isupper():
                        shortened[words[0]] = task.label.split()[0]
                    tip = f"{task.label}: {MEANINGS[task.work]}, {begin:.4g} to {end:.4g}"
                    x, wide = _LEFT + begin * unit, (end - begin) * unit
                    parts.append(box(x, y, wide, _ROW - 2, _COLOURS[task.work], words, tip))
        top += _HEAD + timeline.lanes.ranks * _RANK + 4
    entries = [(_COLOURS[work], meaning) for work, meaning in meanings(timelines)]
    parts += legend(_LEFT, top, entries)
    letters = ", ".join(f"{short} {label}" for short, label in shortened.items())
    if letters:
        parts.append(text(_LEFT, top + 26, letters))
    name = timelines[0].lanes.name
    return sheet(name, _LEFT + _SPAN + 10, top + (36 if letters else 20), parts)


def _fitting(task: Task, wide: float) -> str:
    """The words that fit into a box."""
    return next((words for words in (task.label, task.short) if _pixels(words) + 4 <= wide), "")


def _pixels(words: str) -> float:
    """How wide words are, about; browsers have different letters."""
    return sum(3.3 if letter in _NARROW else 7.8 if letter in _WIDE else 5.7 for letter in words)
