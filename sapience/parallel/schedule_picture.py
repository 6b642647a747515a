"""A schedule's timeline to look at: as an SVG picture, and as lines of letters for a terminal."""

from sapience.parallel.schedule import Interval, Schedule, Timeline
from sapience.parallel.svg import box, legend, sheet, text

_COLOURS = {"F": "#6f9fd8", "B": "#7fb77e", "I": "#a5cf94", "W": "#d9c36a", "&": "#c98f6b"}
_MEANINGS = {
    "F": "forward", "B": "backward", "I": "backward: for the input", "W": "backward: for the weights",
    "&": "forward and backward, overlapped",
}  # fmt: skip
_ROW, _UNIT, _LEFT, _TOP = 24, 18, 60, 34
_LEGEND = 660
"""Wide."""


def letter(interval: Interval) -> str:
    """F, B, I, W, or & for a pair."""
    return "&" if len(interval.action) == 2 else interval.action[0].kind


def lines(timeline: Timeline, columns: int = 100) -> list[str]:
    """A line a rank; a letter is what it does then, a dot is idle."""
    share = columns / timeline.end
    rows = []
    for rank, intervals in enumerate(timeline.ranks):
        row = ["."] * columns
        for one in intervals:
            begin, end = round(one.begin * share), round(one.end * share)
            row[begin:end] = letter(one) * (end - begin)
        rows.append(f"{rank:>3} {''.join(row)}")
    return rows


def svg(schedule: Schedule, timeline: Timeline) -> str:
    """The picture: a row a rank, in each box the numbers of its micro-batches (forward's, then backward's)."""
    width, height = _LEFT + max(timeline.end * _UNIT + 10, _LEGEND), _TOP + _ROW * schedule.ranks + 30
    title = f"{schedule.name}: {schedule.ranks} ranks, {schedule.stages} stages, {schedule.microbatches} micro-batches"
    parts = []
    for rank, intervals in enumerate(timeline.ranks):
        y = _TOP + rank * _ROW
        parts.append(text(8, y + 15, f"rank {rank}"))
        for one in intervals:
            x, wide = _LEFT + one.begin * _UNIT, (one.end - one.begin) * _UNIT
            said = " ".join(str(chunk.microbatch) for chunk in one.action)
            stages = " and ".join(f"{chunk.kind} at stage {chunk.stage}" for chunk in one.action)
            parts.append(box(x, y, wide, _ROW - 4, _COLOURS[letter(one)], said, stages))
    used = {letter(one) for intervals in timeline.ranks for one in intervals}
    entries = [(_COLOURS[kind], meaning) for kind, meaning in _MEANINGS.items() if kind in used]
    return sheet(title, width, height, parts + legend(_LEFT, _TOP + _ROW * schedule.ranks + 8, entries))
