"""How sure a share of right answers is: the 95 % Wilson interval.

Unlike p ± 2σ it stays within 0 and 1 and says something at 0 of 40. It takes the problems to be independent
draws; one seed of training is not covered by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True, slots=True)
class Score:
    """`right` of `problems`, as a share with its 95 % interval."""

    right: int
    problems: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 where there was no problem."""
        return self.right / self.problems if self.problems else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the share."""
        return wilson_interval(self.right, self.problems)


def score_of(correct: Sequence[bool]) -> Score:
    """The score of a list of verdicts."""
    return Score(sum(correct), len(correct))


def wilson_interval(right: int, problems: int) -> tuple[float, float]:
    """Lower and upper bound (Wilson 1927, eq. 4 without continuity correction); (0, 1) without problems."""
    if problems == 0:
        return 0.0, 1.0
    share = right / problems
    shrink = 1 + _Z**2 / problems
    middle = (share + _Z**2 / (2 * problems)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / problems + _Z**2 / (4 * problems**2))
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == problems else min(1.0, middle + half)
    return low, high


def share_difference(
    a: float, a_interval: tuple[float, float], b: float, b_interval: tuple[float, float]
) -> tuple[float, float, float]:
    """Share `a` minus share `b` with its 95 % interval, from both shares' Wilson intervals.

    Newcombe 1998, method 10, for independent samples; where both are of the same questions it is wider than it need be.
    """
    low = a - b - math.hypot(a - a_interval[0], b_interval[1] - b)
    high = a - b + math.hypot(a_interval[1] - a, b - b_interval[0])
    return a - b, max(-1.0, low), min(1.0, high)
