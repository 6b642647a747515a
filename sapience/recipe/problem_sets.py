"""Which problems a stage draws: generated families and a user's own files."""

from typing import Literal

from pydantic import Field, PositiveFloat

from sapience.recipe.section import Section


class ProblemFileSection(Section):
    """A JSONL file of `question` and `answer` (GSM8K's layout too)."""

    path: str
    """Where the file lies."""
    domain: Literal["math", "general"] = "math"
    """`math`: the last number in a box is the answer; `general`: any short text in a box."""
    weight: PositiveFloat = 1.0
    """Share of the prompts, relative to the families'."""


class ProblemSetSection(Section):
    """Problems with answers that rules can check.

    Stages learn from the training split alone; the validations of GRPO ask the validation split.
    """

    families: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Generated families and their shares of the prompts."""
    files: list[ProblemFileSection] = Field(default_factory=list)
    """Files of a user's own."""

    @property
    def empty(self) -> bool:
        """True where nothing is named."""
        return not self.families and not self.files
