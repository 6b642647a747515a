"""Counting updates that were skipped since their gradient was not finite, and giving up after too many in a row."""

import math
from dataclasses import dataclass

from sapience.recipe.errors import UserError

MOST_SKIPPED = 20
"""Updates in a row without a finite gradient after which training is given up."""


@dataclass
class UpdateCounters:
    """The part of a training's counters that every training has."""

    skipped: int = 0
    skipped_in_a_row: int = 0

    def count_update(self, norm: float, updates: str, place: str, advice: str) -> bool:
        """True where the update with this gradient norm was skipped.

        Raises UserError, in the words of the caller, where that happened `MOST_SKIPPED` times in a row.
        """
        skipped = not math.isfinite(norm)
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{MOST_SKIPPED} {updates} in a row had gradients that are not finite ({place}): {advice} and run again"
            )
        return skipped
