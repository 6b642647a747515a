"""What a source yields before cleaning, and the book of what it could not yield.

A damaged record never ends a run: it is set aside with its place and reason, counted and reported. A source that
cannot be had at all is another matter: the recipe says whether the run can do without it.
"""

from collections import Counter
from dataclasses import dataclass, field

KEPT_PLACES = 200
"""Set-aside records of a source that are named one by one; the rest is only counted."""


class SourceMissing(Exception):
    """The source cannot be had on this machine; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Record:
    """Raw text of one document-to-be."""

    text: str
    place: str
    """Where it stood: a path below the source, with the line where there are several."""


@dataclass
class Reading:
    """One source being read: its bounds, and what is learned on the way."""

    record_limit: int
    """Bytes; a larger record is set aside unread."""
    counts: Counter[str] = field(default_factory=Counter)
    """Records set aside, by reason."""
    places: list[dict[str, str]] = field(default_factory=list)
    version: str = ""
    """Of the package or data set."""

    def set_aside(self, reason: str, place: str, detail: str = "") -> None:
        """Count a record under `reason`; `detail` says what exactly was wrong or what would help."""
        self.counts[reason] += 1
        if len(self.places) < KEPT_PLACES:
            self.places.append({"place": place, "reason": reason, "detail": detail})

    def too_large(self, place: str) -> None:
        """Count a record beyond the limit."""
        self.set_aside(
            "too large",
            place,
            f"more than {self.record_limit / 1e6:g} MB: split it or raise corpus.record_limit_mb",
        )
