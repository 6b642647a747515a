"""People's part: which everyday answers may be trained on without a look, and how many have to agree."""

from typing import Literal

from pydantic import Field, PositiveInt

from sapience.recipe.section import Section


class ReviewSection(Section):
    """The queue of answers and comparisons that `sapience review RUN` shows."""

    url: str | None = None
    """SQLAlchemy URL of the queue; null keeps it as SQLite in the run's folder (review.sqlite), where no stage that is
    made again ever deletes it."""
    votes: PositiveInt = 1
    """Decisions that an answer needs before it counts."""
    unreviewed: Literal["none", "written", "all"] = "none"
    """What passes without a person: nothing, the conversations that come with sapience, or machine drafts as well. Their
    provenance says so. Reasoning samples were checked by rules and pass always."""
    comparisons: int = Field(default=40, ge=0)
    """Pairs of the SFT model's own answers to everyday wishes that are put up for comparison once it is there."""
