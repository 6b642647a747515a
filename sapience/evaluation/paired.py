"""Two models on the same problems: by how much do they differ, and could chance alone have made it?

Two separate intervals waste what is known: both models met the same problems, and most are easy or hard for both. The
interval of the difference is taken over the differences per problem (1 gained, 0 same, -1 lost). It takes the problems
to be independent draws; another seed of training is not covered.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_Z = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True, slots=True)
class Change:
    """What one model has over another on the same problems."""

    difference: float
    low: float
    high: float
    gained: int
    lost: int

    @property
    def reliable(self) -> bool:
        """True where chance alone would make so uneven a count of gained and lost in less than 5 of 100 cases."""
        return sign_test(self.gained, self.lost) < 0.05


def paired_difference(a: Sequence[bool], b: Sequence[bool]) -> tuple[float, float, float]:
    """Share right of `a` minus that of `b` on the same problems, with its 95 % interval.

    Normal approximation: mean of the differences per problem plus and minus 1.96 standard errors. It is too narrow where
    only a handful of problems changed, and has no width where none did or all did alike; `sign_test` is exact there.
    (0, -1, 1) without problems; ValueError for lists of different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} verdicts cannot be paired: both models need the same problems")
    if not a:
        return 0.0, -1.0, 1.0
    differences = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    mean = fmean(differences)
    half = _Z * stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 1.0
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


def sign_test(gained: int, lost: int) -> float:
    """Exact two-sided probability of a split at least as uneven, were gaining and losing equally likely (McNemar)."""
    changed = gained + lost
    tail = sum(math.comb(changed, fewer) for fewer in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def change(later: Mapping[str, bool], earlier: Mapping[str, bool]) -> Change | None:
    """The change from `earlier` to `later` on the problems that both have a verdict on; None where there are none."""
    common = [problem for problem in later if problem in earlier]
    if not common:
        return None
    a, b = [later[problem] for problem in common], [earlier[problem] for problem in common]
    gained = sum(x and not y for x, y in zip(a, b, strict=True))
    lost = sum(y and not x for x, y in zip(a, b, strict=True))
    return Change(*paired_difference(a, b), gained, lost)
