"""What sources hand on: raw texts, what they say of themselves, and where records go that cannot be read."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RawText:
    """A text as its source has it, before any cleaning."""

    text: str
    origin: str
    """Where in the source: a path inside the package or folder, with the record number where a file holds many."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """A source as the report names it."""

    name: str
    version: str
    available: bool
    reason: str = ""
    """Why it is not available, and what would help."""


class Quarantine(Protocol):
    """Takes note of records that cannot be read. A bad record is never fatal and never silently lost."""

    def add(self, source: str, origin: str, reason: str) -> None:
        """Count and keep one record's place and what is wrong with it."""
        ...


class SourceMissing(Exception):
    """A source is not to be had: the cause, then the remedy. Fatal only where the recipe does not call it optional."""
