"""GRPO from the SFT model to the assistant (report, section 5.2.2)."""

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from sapience.recipe.policy import PolicySection
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.section import Section


class ReinforceSection(Section):
    """What is asked, and what counts."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to begin with; null takes this run's SFT model."""
    reward_model: str | None = None
    """A reward model's folder, or RUN@reward; null takes this run's, and without one everyday wishes are not asked."""
    problems: ProblemSetSection = ProblemSetSection()
    """Problems that rules judge; empty: all that the experts had."""
    everyday: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts that are everyday wishes, judged by the reward model."""
    wishes: NonNegativeInt = 0
    """Formed everyday wishes to choose from beside the openings of the conversations that come with sapience; none that
    an earlier stage has used."""
    rule_weight: NonNegativeFloat = 1.0
    """What a right answer to a problem is worth."""
    format_weight: NonNegativeFloat = 0.1
    """What the asked format (a box, a fenced block) is worth, right or wrong."""
    model_weight: NonNegativeFloat = 1.0
    """What the reward model's score, squashed to 0-1, is worth."""
    manner_weight: NonNegativeFloat = 1.0
    """What the right kind of answer to an everyday wish is worth: to refuse a harmful one, to admit where nobody can know,
    to answer any other."""
    language_weight: NonNegativeFloat = 0.2
    """What answering in the language of the question is worth (DeepSeek-R1's language consistency)."""
    policy: PolicySection = PolicySection()
