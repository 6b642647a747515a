"""What the assistant will learn from: the experts' reasoning in two kinds, and everyday answers (report, section 5.1)."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints

from sapience.recipe.endpoint import EndpointSection
from sapience.recipe.section import Section


class GeneratorSection(EndpointSection):
    """A general model that drafts everyday answers; every draft waits for a person."""

    prompts: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(default_factory=list)
    """What to ask; empty: the first turns of the everyday conversations that come with sapience."""
    limit: PositiveInt = 200
    """Drafts to ask for, at most."""


class DistillSection(Section):
    """Rejection sampling from the experts, and everyday answers."""

    experts: dict[str, str] = Field(default_factory=dict)
    """Experts of a user's own, domain -> Hugging Face folder or RUN@stage; empty takes this run's."""
    problems: NonNegativeInt = 200
    """Problems of each family (and file) that answers are drawn to: those of the demonstrations first, then others."""
    draws: PositiveInt = 8
    """Answers of each kind drawn to every problem; the shortest right one is kept."""
    temperature: PositiveFloat = 1.0
    """Of the draws. V3: high, the value is not published."""
    answer_tokens: PositiveInt = 1024
    """Longest answer."""
    shard_problems: PositiveInt = 128
    """Problems that are worked on between two saved shards."""
    written: bool = True
    """Take the everyday conversations in English and Chinese that come with sapience."""
    generated: NonNegativeInt = 0
    """Everyday conversations formed from phrasings and topics, in English and Chinese, beside the written ones. A very
    small model learns from thousands of different ones what it cannot from hundreds; a large one has no use for them."""
    topics: PositiveInt | None = None
    """Formed conversations are about so many topics of each kind and language; null for all of several hundred. Two million
    parameters learn a few dozen in a minute."""
    generator: GeneratorSection | None = None
    """Who drafts more everyday answers; null for nobody."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
