"""How weights are moved: optimizer, learning-rate schedule and batch ramp, shared by every stage that trains."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.section import Section


class OptimizerSection(Section):
    """AdamW as V3 trains with it (section 4.2), or Muon for the hidden matrices with AdamW for the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the momentum of hidden matrices (Jordan 2024; Liu et al. 2025); embedding, head, gate and
    norms stay with AdamW."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment; V3's value is not published."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices; norms and biases are not decayed."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """In what AdamW keeps its two moments; V3: bfloat16 (section 3.3.2), half the memory and less to move."""
    embedding_rate: PositiveFloat = 1.0
    """Factor on the embedding's learning rate. A row of it moves only when its token comes by: short trainings want more."""
    head_rate: PositiveFloat = 1.0
    """Factor on the output head's learning rate."""
    clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """Nesterov momentum of Muon."""
    muon_iterations: PositiveInt = 5
    """Newton-Schulz steps of the orthogonalisation."""
    muon_update: PositiveFloat = 0.2
    """Root mean square of Muon's update before the learning rate; 0.2 is about AdamW's, so that both share one rate."""


class ScheduleSection(Section):
    """V3's learning-rate curve in shares of the stage's tokens: warm-up, constant, cosine, two constant tails.

    Defaults are V3's own shares (section 4.2): constant to 10T of 14.8T tokens, cosine over 4.3T to a tenth, 333B
    constant, 167B at 7.3e-6 of 2.2e-4.
    """

    peak: PositiveFloat = 2.2e-4
    """Learning rate of the plateau."""
    warmup: float = Field(default=0.0027, ge=0, lt=1)
    """Share of the tokens over which the rate rises linearly from zero; V3: 2000 steps."""
    plateau_end: float = Field(default=10 / 14.8, ge=0, le=1)
    """Share of the tokens after which the cosine begins."""
    cosine_end: float = Field(default=14.3 / 14.8, ge=0, le=1)
    """Share of the tokens after which the rate stays at `floor`."""
    tail_start: float = Field(default=14.633 / 14.8, ge=0, le=1)
    """Share of the tokens after which the rate drops to `tail`."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """Rate at the cosine's end, as a share of the peak."""
    tail: float = Field(default=7.3 / 220, ge=0, le=1)
    """Rate of the last stretch, as a share of the peak."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        marks = (self.warmup, self.plateau_end, self.cosine_end, self.tail_start)
        if list(marks) != sorted(marks):
            raise ValueError("the schedule's marks must rise: warmup <= plateau_end <= cosine_end <= tail_start")
        return self


class BatchSection(Section):
    """Rows of an optimizer step, ramped up at the beginning as V3 does (3072 to 15360 sequences over 469B tokens)."""

    rows: PositiveInt = 16
    """Sequences in a full step."""
    start_rows: PositiveInt | None = None
    """Sequences in the first step; null for no ramp."""
    ramp: float = Field(default=469 / 14800, ge=0, le=1)
    """Share of the steps over which the batch grows linearly."""
    micro_rows: PositiveInt = 16
    """Sequences that go through the model at once; changes memory and speed, not the result's meaning."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.start_rows is not None and self.start_rows > self.rows:
            raise ValueError(f"start_rows {self.start_rows} exceeds rows {self.rows}: a ramp goes up")
        return self


class BalanceSection(Section):
    """Auxiliary-loss-free balancing of the experts, and the small sequence-wise loss beside it (section 2.1.2)."""

    gamma: NonNegativeFloat = 0.001
    """Speed of the bias update, per step."""
    gamma_end: float = Field(default=14.3 / 14.8, ge=0, le=1)
    """Share of the tokens after which gamma is zero."""
    alpha: NonNegativeFloat = 0.0001
    """Weight of the sequence-wise balance loss."""


class PredictionSection(Section):
    """Weight of the multi-token-prediction loss (section 4.2)."""

    weight: NonNegativeFloat = 0.3
    """Lambda at the beginning; V3: 0.3 for the first 10T tokens."""
    final_weight: NonNegativeFloat = 0.1
    """Lambda after `switch`; V3: 0.1 for the last 4.8T tokens."""
    switch: float = Field(default=10 / 14.8, ge=0, le=1)
    """Share of the tokens at which lambda changes."""
