"""The reward model: a scalar judge of what rules cannot judge, from the SFT checkpoint (report, section 5.2.1)."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sapience.recipe.compute import PlacementSection
from sapience.recipe.optimization import OptimizerSection
from sapience.recipe.problem_sets import ProblemSetSection


class RewardSection(PlacementSection):
    """Preference pairs with reasons, and the model that learns from them."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to begin with; null takes this run's SFT model."""
    problems: ProblemSetSection = ProblemSetSection()
    """Problems to which the SFT model's right and wrong answers are paired; empty: all that the experts had."""
    problem_prompts: NonNegativeInt = 512
    """Problems asked for such pairs."""
    draws: int = Field(default=8, ge=2)
    """Answers drawn to each; a right and a wrong one of like length make a pair."""
    wishes: NonNegativeInt = 0
    """Formed everyday wishes that are answered for such pairs too: of each it is known whether to refuse, to admit not to
    know, or to answer. They are made for very small models; see `distill.generated`."""
    temperature: PositiveFloat = 1.0
    """Of the draws."""
    answer_tokens: PositiveInt = 1024
    """Longest answer."""
    written: bool = True
    """Take the pairs that come with sapience."""
    pairs: list[str] = Field(default_factory=list)
    """JSONL files of a user's own: `prompt` or `messages`, `chosen`, `rejected`, `reason`."""
    held_out: float = Field(default=0.15, gt=0, lt=1)
    """Share of the pairs, by hash of the prompt, that accuracy is measured on and nothing is learned from."""
    epochs: PositiveInt = 1
    """Passes over the pairs; DeepSeek-R1: 1."""
    batch_pairs: PositiveInt = 64
    """Pairs of a step; DeepSeek-R1: 256 answers."""
    micro_pairs: PositiveInt = 64
    """Pairs that go through the model at once."""
    length: PositiveInt = 8192
    """Longest conversation in tokens; a pair with a longer one is left out and counted. DeepSeek-R1: 8192."""
    peak: PositiveFloat = 6e-6
    """Learning rate; DeepSeek-R1: 6e-6."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises from zero; it then falls as a cosine to a tenth."""
    center: NonNegativeFloat = 0.01
    """Weight of the squared mean of a pair's two scores, which keeps scores around zero (Eisenstein et al. 2023)."""
    likelihood: NonNegativeFloat = 0.0
    """Weight of the answer's mean log-probability (nats per token) in the score, beside the linear head on the last hidden
    state, which is all of V3's. A very small model with few pairs judges better by what fine-tuning has taught it."""
    optimizer: OptimizerSection = OptimizerSection()
    log_every: PositiveInt = 5
    """Steps between two lines of metrics."""
    checkpoint_every: PositiveInt = 20
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
