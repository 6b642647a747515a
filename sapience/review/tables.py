"""The review queue's two tables.

`review_items` holds drafts and comparisons; `review_words` holds every word ever said, in order: a later word of the same
person on the same item replaces the earlier, undo withdraws, nothing is deleted.
"""

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sapience.review.records import Messages


class Table(DeclarativeBase):
    """The queue's tables."""


class Item(Table):
    """A draft or a comparison."""

    __tablename__ = "review_items"

    row: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(16), index=True)
    identity: Mapped[str] = mapped_column(sa.String(16), unique=True)
    messages: Mapped[Messages] = mapped_column(sa.JSON)
    first: Mapped[str] = mapped_column(sa.Text)
    second: Mapped[str | None] = mapped_column(sa.Text)
    """None for a draft."""
    language: Mapped[str] = mapped_column(sa.Text)
    category: Mapped[str] = mapped_column(sa.Text)
    source: Mapped[str] = mapped_column(sa.Text)
    holder: Mapped[str | None] = mapped_column(sa.Text)
    """Who has it on the screen."""
    held_until: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970."""


class Word(Table):
    """One thing that one person said of one item."""

    __tablename__ = "review_words"

    row: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(sa.ForeignKey("review_items.row"), index=True)
    annotator: Mapped[str] = mapped_column(sa.Text, index=True)
    verdict: Mapped[str] = mapped_column(sa.String(16))
    answer: Mapped[str] = mapped_column(sa.Text)
    reason: Mapped[str] = mapped_column(sa.Text)
    at: Mapped[float]
    withdrawn: Mapped[bool] = mapped_column(default=False)
