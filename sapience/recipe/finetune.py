"""Supervised fine-tuning of the base model on the reviewed samples (report, section 5.1)."""

from typing import Literal

from pydantic import Field, PositiveInt

from sapience.recipe.section import Section
from sapience.recipe.supervised import SupervisedSection


class FinetuneSection(Section):
    """From base model to SFT model."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to begin with; null takes this run's extended (or base) model."""
    samples: list[str] = Field(default_factory=list)
    """JSONL files of a user's own, beside what the run has made: messages, ShareGPT, Alpaca or prompt and answer."""
    repeats: dict[Literal["demonstration", "original", "reasoned", "everyday", "own"], PositiveInt] = Field(
        default_factory=dict
    )
    """How many times a sample of a kind stands in an epoch; 1 where a kind is not named. Weighs kinds of which there is
    little against those of which there is much."""
    supervised: SupervisedSection = SupervisedSection()
