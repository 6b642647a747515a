"""Pre-training: how long, on what mixture, with which optimizer (report, section 4.2)."""

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.compute import ComputeSection
from sapience.recipe.optimization import (
    BalanceSection,
    BatchSection,
    OptimizerSection,
    PredictionSection,
    ScheduleSection,
)
from sapience.recipe.section import Section


class CurriculumSection(Section):
    """A stretch at the beginning of pre-training with a mixture of its own."""

    until: float = Field(gt=0, lt=1)
    """Share of the tokens after which the next stretch, or the mixture itself, takes over."""
    mixture: dict[str, PositiveFloat] = Field(min_length=1)
    """Weight by domain in place of the mixture's; domains not named keep theirs."""


class PretrainSection(ComputeSection):
    """From random weights (or a model of the user's own) to a base model."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to go on from; null begins from random weights."""
    steps: PositiveInt = 1000
    """Optimizer steps. Never a time: the same recipe gives the same model on a fast and on a slow machine."""
    length: PositiveInt = 128
    """Context in tokens."""
    isolate_documents: bool = False
    """Let packed documents see only themselves. V3 does not in pre-training; where most documents are much shorter than
    the context, it forms the ability to copy sooner."""
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Share of the training rows by domain of the corpus; empty means the corpus section's own weights."""
    curriculum: list[CurriculumSection] = Field(default_factory=list)
    """Other mixtures for the beginning, in order. What an ability has to form from early (the drills of the demo, from
    which copying comes) is worth most in the first stretch; what should be remembered best belongs to the end. V3 names
    no change of its mixture."""
    batch: BatchSection = BatchSection()
    schedule: ScheduleSection = ScheduleSection()
    optimizer: OptimizerSection = OptimizerSection()
    balance: BalanceSection = BalanceSection()
    prediction: PredictionSection = PredictionSection()
    log_every: PositiveInt = 10
    """Steps between two lines of metrics."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints; a killed run loses at most so many."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
    evaluations: int = Field(default=6, ge=0)
    """How many times, evenly over the steps, held-out bits per byte are measured and text is sampled."""
    evaluation_bytes: PositiveInt = 8192
    """Held-out bytes per domain at those moments; the last measurement takes `final_bytes`."""
    final_bytes: PositiveInt = 65536
    """Held-out bytes per domain of the measurement at the end."""
    sample_prompts: list[str] = Field(default_factory=lambda: ["The ", "def ", "import "])
    """Beginnings that the model continues at those moments."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ends = [stretch.until for stretch in self.curriculum]
        if ends != sorted(set(ends)):
            raise ValueError(f"the stretches of the curriculum end at {ends}: each must end after the one before")
        return self
