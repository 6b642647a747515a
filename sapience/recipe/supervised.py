"""Supervised fine-tuning as a mechanism: shared by the experts of `specialise` and by `finetune`."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sapience.recipe.compute import ComputeSection
from sapience.recipe.optimization import BalanceSection, BatchSection, OptimizerSection


class SupervisedSection(ComputeSection):
    """Learn answers from samples, packed with no sample seeing another (report, section 5.1)."""

    epochs: PositiveInt = 2
    """Passes over the samples; V3: 2."""
    length: PositiveInt = 4096
    """Tokens of a packed row; a longer sample is left out and counted. V3's value is not published."""
    batch: BatchSection = BatchSection()
    """Packed rows of a step. V3's value is not published."""
    peak: PositiveFloat = 5e-6
    """Learning rate at the beginning of the cosine; V3: 5e-6."""
    floor: float = Field(default=0.2, ge=0, le=1)
    """Learning rate at the end as a share of the peak; V3: 1e-6 of 5e-6."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the rows over which the rate rises from zero; V3's value is not published."""
    prediction_weight: NonNegativeFloat = 0.1
    """Lambda of multi-token prediction, which is trained along so that its drafts stay good; V3's last value."""
    optimizer: OptimizerSection = OptimizerSection()
    balance: BalanceSection = BalanceSection(gamma=0.0)
    """V3 ends pre-training with gamma 0; what it does afterwards is not published."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics."""
    checkpoint_every: PositiveInt = 50
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
