"""What a source yields before cleaning, and the book of what it could not yield.

A damaged record never ends a run: it is set aside with its place and reason, counted and reported.
"""

from collections import Counter
from dataclasses import dataclass, field

KEPT_PLACES = 200
"""Set-aside records of a source that are named one by one; the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Record:
    """Raw text of one document-to-be."""

    text: str
    place: str
    """Where it stood: a path below the source, with the line where there are several."""


@dataclass
class Quarantine:
    """Records of one source that were set aside."""

    counts: Counter[str] = field(default_factory=Counter)
    places: list[dict[str, str]] = field(default_factory=list)

    def add(self, reason: str, place: str, detail: str = "") -> None:
        """Count a record under `reason`; `detail` says what to do or what exactly was wrong."""
        self.counts[reason] += 1
        if len(self.places) < KEPT_PLACES:
            self.places.append({"place": place, "reason": reason, "detail": detail})
