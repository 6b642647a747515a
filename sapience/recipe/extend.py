"""Context extension in phases by YaRN (report, section 4.3: 4K to 32K to 128K)."""

from pydantic import Field, PositiveFloat, PositiveInt

from sapience.recipe.compute import ComputeSection
from sapience.recipe.optimization import BalanceSection, BatchSection, OptimizerSection
from sapience.recipe.section import Section


class PhaseSection(Section):
    """One lengthening: so many steps at a multiple of the pre-training length."""

    factor: PositiveInt
    """Context as a multiple of the pre-training length; V3: 8, then 32."""
    steps: int = Field(ge=0)
    """Optimizer steps of the phase; V3: 1000 each."""
    batch: BatchSection = BatchSection(rows=2, micro_rows=2)
    peak: PositiveFloat = 7.3e-6
    """Learning rate, constant after a short warm-up; V3: the last rate of pre-training."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the rate rises from zero."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls linearly to a tenth; V3: none."""


class NeedleSection(Section):
    """Documents with facts hidden in long text, and the map that measures whether they are found again."""

    share: float = Field(default=0.5, ge=0, lt=1)
    """Share of the training rows that hide needles; the rest is the pre-training mixture at the longer length."""
    documents: PositiveInt = 400
    """Needle documents written per phase."""
    density: PositiveInt = 8
    """Needles in a document, at most, per pre-training length of text (eight lengths of text: up to eight times this)."""
    questions: PositiveInt = 4
    """Questions at the end of a document, at most."""
    depths: PositiveInt = 5
    """Rows of the needle map: places, evenly from the beginning to the end."""
    trials: PositiveInt = 8
    """Needles looked for at each length and depth."""


class ExtendSection(ComputeSection):
    """A longer context, phase by phase, with a needle map before and after each."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to extend; null takes this run's base model."""
    phases: list[PhaseSection] = Field(
        default_factory=lambda: [PhaseSection(factor=8, steps=100), PhaseSection(factor=32, steps=50)], min_length=1
    )
    """In the order of growing length."""
    scaling_factor: float | None = Field(default=40.0, gt=1)
    """YaRN's s, the same in all phases; V3: 40 (report, section 4.3). Null takes each phase's own factor."""
    beta_fast: PositiveFloat = 32.0
    """Rotary pairs that turn more often than this over the pre-training length are left alone. V3: 32, of 4096 tokens;
    a short pre-training length wants less, or no pair is left to tell neighbours apart."""
    beta_slow: PositiveFloat = 1.0
    """Rotary pairs that turn less often than this are fully interpolated. V3: 1."""
    mscale: PositiveFloat = 1.0
    """m in YaRN's softmax temperature (0.1 m ln s + 1)^2. V3: 1."""
    isolate_documents: bool = False
    """Let packed documents see only themselves. Without it, facts of one document contradict those of its neighbours in
    the same long row, which unteaches looking things up."""
    needles: NeedleSection = NeedleSection()
    optimizer: OptimizerSection = OptimizerSection()
    balance: BalanceSection = BalanceSection(gamma=0.0)
    prediction_weight: float = Field(default=0.1, ge=0)
    """Lambda of multi-token prediction; V3's last value."""
    log_every: PositiveInt = 5
    """Steps between two lines of metrics."""
    checkpoint_every: PositiveInt = 20
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
