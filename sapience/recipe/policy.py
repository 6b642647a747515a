"""Group relative policy optimization as a mechanism: shared by the experts of `specialise` and by `reinforce`."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.compute import PlacementSection
from sapience.recipe.optimization import OptimizerSection


class PolicySection(PlacementSection):
    """GRPO (report, section 5.2.2, equations 26-28). V3's own values are not published; defaults are DeepSeekMath's and
    DeepSeek-R1's where these are. The model that KL is taken from and the reward model that scores are placed alike."""

    iterations: PositiveInt = 300
    """Times that answers are drawn, judged and learned from."""
    prompts: PositiveInt = 32
    """Different prompts of an iteration; DeepSeek-R1: 32."""
    samples: int = Field(default=16, ge=2)
    """G: answers drawn to each prompt; DeepSeek-R1: 16, DeepSeekMath: 64."""
    answer_tokens: PositiveInt = 1024
    """Longest answer. One that does not end by then is judged like any other, as it stands."""
    temperature: PositiveFloat = 1.0
    """Of the draws. Ratio and KL are taken at temperature one."""
    updates: PositiveInt = 1
    """Optimizer steps per iteration, each on its share of the prompts. With 1 the ratio is one throughout."""
    clip: PositiveFloat = 0.2
    """Epsilon: how far the ratio may move from one; a single update never reaches it."""
    beta: NonNegativeFloat = 0.04
    """Weight of the KL divergence from the model that the stage began with; DeepSeekMath: 0.04. Groups whose answers are all
    worth the same are left out of the update, and out of this term with it."""
    open_beta: NonNegativeFloat | None = None
    """The same for prompts that no rule judges, where a policy may come to exploit its judge; null takes `beta`."""
    aggregate: Literal["sequence", "token"] = "sequence"
    """`sequence` averages over an answer's tokens, then over answers (DeepSeekMath, eq. 3); `token` over all tokens."""
    normalize: bool = True
    """Divide advantages by their group's standard deviation (eq. 28)."""
    mismatch: PositiveFloat = 0.05
    """Bound on |difference| between the engine's and the trainer's log-probability of a token, in nats. Tokens beyond it
    are weighted by the truncated ratio of the two."""
    peak: PositiveFloat = 1e-6
    """Learning rate after warm-up; DeepSeekMath: 1e-6."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the iterations over which the rate rises from zero."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the iterations, at the end, over which the rate falls as a cosine to a tenth."""
    prediction_weight: NonNegativeFloat = 0.1
    """Lambda of multi-token prediction on the drawn answers. It moves the prediction modules alone: frozen ones would
    draft worse and worse as the policy moves on."""
    micro_tokens: PositiveInt = 8192
    """Tokens, padding included, that go through the model at once; changes memory and speed only."""
    optimizer: OptimizerSection = OptimizerSection(weight_decay=0.0)
    validations: int = Field(default=0, ge=0)
    """How many times, evenly over the iterations and once before the first, held-out problems are answered greedily."""
    validation_problems: PositiveInt = 64
    """Problems of the validation split at each of those moments."""
    checkpoint_every: PositiveInt = 10
    """Iterations between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""

    @property
    def anchored(self) -> bool:
        """Whether the model that the stage began with is needed."""
        return bool(self.beta or self.open_beta)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.updates > self.prompts:
            raise ValueError(f"updates {self.updates} exceeds prompts {self.prompts}: each update needs a prompt")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} overlap: their sum is at most 1")
        return self
