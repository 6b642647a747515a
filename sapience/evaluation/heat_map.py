"""Heat maps: needles found by length and depth, load of the experts over training."""

import math
from collections.abc import Sequence

from sapience.evaluation.drawing import WIDTH, label, picture, rectangle, text_width, upright
from sapience.evaluation.wording import percent

Cells = Sequence[Sequence[float | None]]


def share_map(
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Cells,
    row_label: str,
    column_label: str,
    description: str,
) -> str:
    """Shares 0 to 1 as strength of one colour, the percentage written in each cell; None is an empty cell."""
    left, top, cell = 12 + max(text_width(name) for name in rows) + 16, 8.0, 30.0
    width = min(110.0, (WIDTH - left - 8) / len(columns))
    parts = []
    for row, values in enumerate(shares):
        y = top + row * cell
        parts.append(label(left - 8, y + cell / 2 + 4, rows[row], "tick", "end"))
        for column, share in enumerate(values):
            if share is None:
                continue
            x = left + column * width
            told = f"{row_label} {rows[row]}, {column_label} {columns[column]}: {percent(share)}"
            look = f'rx="3" class="heat" style="fill-opacity:{0.06 + 0.74 * share:.2f}"'
            parts.append(rectangle(x + 1, y + 1, width - 2, cell - 2, look, told))
            parts.append(label(x + width / 2, y + cell / 2 + 4, percent(share), "cell"))
    bottom = top + cell * len(rows)
    parts += [label(left + (c + 0.5) * width, bottom + 16, name) for c, name in enumerate(columns)]
    parts.append(label(left + width * len(columns) / 2, bottom + 34, column_label, "axis-label"))
    parts.append(upright(11, (top + bottom) / 2, row_label))
    return picture(bottom + 42, description, "".join(parts))


def load_map(steps: Sequence[float], loads: Sequence[Sequence[float]], description: str) -> str:
    """One layer: a row per expert, a column per moment; the colour says how far a load is from the even
    share.

    `loads[t][e]` are tokens of expert e at moment t. Twice the even share or more is the strongest warm,
    half or less the strongest cold colour; even loads have none.
    """
    experts = len(loads[0])
    left, top = 34.0, 6.0
    cell = max(1.5, min(15.0, 128 / experts))
    width = (WIDTH - left - 8) / len(loads)
    plate = "no colour: an even share"
    parts = [rectangle(left, top, width * len(loads), cell * experts, 'class="plate"', plate)]
    for moment, row in enumerate(loads):
        even = sum(row) / experts or 1.0
        for expert, load in enumerate(row):
            ratio = load / even
            strength = min(1.0, abs(math.log2(max(ratio, 0.25))))
            if strength < 0.02:
                continue
            x, y = left + moment * width, top + expert * cell
            told = f"step {steps[moment]:,.0f}, expert {expert + 1}: {ratio:.2f} of the even share"
            look = f'class="{"hot" if ratio > 1 else "cold"}" style="fill-opacity:{0.9 * strength:.2f}"'
            parts.append(rectangle(x, y, width + 0.2, cell, look, told))
    bottom = top + cell * experts
    shown = range(experts) if experts <= 10 else (0, experts - 1)
    parts += [label(left - 6, top + (e + 0.5) * cell + 4, str(e + 1), "tick", "end") for e in shown]
    parts.append(label(left, bottom + 15, f"{steps[0]:,.0f}", "tick", "start"))
    parts.append(label(left + width * len(loads), bottom + 15, f"step {steps[-1]:,.0f}", "tick", "end"))
    return picture(bottom + 22, description, "".join(parts))
