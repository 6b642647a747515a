"""The recipe's `report` section: the one HTML page that shows a run."""

from pydantic import Field

from sapience.recipe.section import Section


class ReportSection(Section):
    """What the stage `report` puts on its page."""

    title: str | None = None
    """Heading of the page; None: the run's name."""

    sample_moments: int = Field(default=5, ge=1)
    """At how many moments of training the model's own words are shown, spread evenly over the run."""

    curve_points: int = Field(default=400, ge=10)
    """Points a curve is drawn with at most: longer records are averaged in bins, so that the page stays
    small."""
