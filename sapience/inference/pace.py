"""Whether drafting pays: measured, since it depends on the machine, on how many answers are drawn and on what they say.

A draft that is accepted saves a step; checking and making drafts makes every step longer. Where a step is bound by reading
weights that is nearly free, where it is bound by arithmetic it costs what it saves. Answers are the same either way.
"""

from dataclasses import dataclass, field

TRIAL = 6
"""Steps that are tried before judging, and again from time to time."""
BETWEEN = 200
"""Steps between trials of the slower way."""
_KEPT = 0.9
_MOST = 3.0
"""Times what was measured so far: a step that takes longer has done something else as well, such as reading a prompt."""


@dataclass
class _Size:
    """What was measured with so many answers."""

    seconds: dict[bool, float] = field(default_factory=dict)
    """A token's, with drafts and without."""
    tried: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    since: int = 0


class Pace:
    """Seconds a token with and without drafts, for every power of two of answers."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}

    def drafts(self, answers: int) -> bool:
        """Whether the next step is to make drafts."""
        size = self._sizes.setdefault(answers.bit_length(), _Size())
        for way in (True, False):
            if size.tried[way] < TRIAL:
                return way
        better = size.seconds[True] <= size.seconds[False]
        if size.since >= BETWEEN:
            size.since, size.tried[not better] = 0, 0
            return not better
        return better

    def took(self, answers: int, drafting: bool, seconds: float, tokens: int) -> None:
        """A step of that kind."""
        size = self._sizes.setdefault(answers.bit_length(), _Size())
        each, before = seconds / max(tokens, 1), size.seconds.get(drafting)
        if before is None or size.tried[drafting] == 0:
            size.seconds[drafting] = each
        elif size.tried[drafting] < TRIAL:
            size.seconds[drafting] = min(before, each)  # the first steps may have compiled something
        else:
            size.seconds[drafting] = _KEPT * before + (1 - _KEPT) * min(each, _MOST * before)
        size.tried[drafting] += 1
        size.since += 1
