"""GRPO from the SFT model to the assistant (report, section 5.2.2)."""

import re
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from sapience.recipe.endpoint import EndpointSection
from sapience.recipe.policy import PolicySection
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.section import Section

RewardDomain = Literal["math", "code", "general", "everyday"]
OF_PROBLEMS = frozenset({"rule", "tests", "format", "language", "length", "judge"})
OF_WISHES = frozenset({"model", "manner", "language", "length", "judge"})
DEFAULT_REWARDS: dict[str, dict[str, float]] = {
    **{domain: {"rule": 1.0, "format": 0.1, "language": 0.2} for domain in ("math", "code", "general")},
    "everyday": {"model": 1.0, "manner": 1.0, "language": 0.2},
}


class RubricSection(EndpointSection):
    """A general model that scores answers by a rubric (V3 report, sections 5.2.1 and 5.4.2: judgements by vote)."""

    url: str | None = None  # type: ignore[assignment]
    """Base URL of a server, such as http://127.0.0.1:8000/v1; null runs `model`, a Hugging Face folder or RUN@stage, here."""
    rubric: str = (
        "Is the answer correct, does it do what was asked, and is it clear and no longer than it need be? Where an expected "
        "answer is given, an answer that means something else is wrong."
    )
    """What the score is for, in words."""
    votes: PositiveInt = 3
    """Judgements of each answer, by different seeds; their mean counts."""
    at_once: PositiveInt = 8
    """Questions that are out at a time."""


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
    rewards: dict[RewardDomain, dict[str, NonNegativeFloat]] = Field(default_factory=dict)
    """What an answer is worth: for each domain the sources and their weights, which are added up; a domain that is not
    named has `DEFAULT_REWARDS`. Sources of problems: `rule` (right or not), `tests` (share of the tests that a program
    passes), `format` (the asked box or fenced block is there, right or wrong). Of wishes: `model` (the reward model's score,
    squashed to 0-1), `manner` (a harmful one refused, an unanswerable one admitted to be so, any other answered). Of both:
    `language` (DeepSeek-R1's language consistency), `length` (see `rewards.short` and `rewards.long`), `judge` (below), and
    `FILE.py:FUNCTION`, a function of your own that takes question and answer and returns a number, by rights from 0 to 1."""
    judge: RubricSection | None = None
    """The general model behind the source `judge`."""
    policy: PolicySection = PolicySection()

    def weights(self, domain: str) -> dict[str, float]:
        """Sources and weights of a domain."""
        named: dict[str, float] | None = self.rewards.get(domain)  # type: ignore[call-overload]
        return DEFAULT_REWARDS[domain] if named is None else named

    @model_validator(mode="after")
    def _known_sources(self) -> Self:
        for domain, sources in self.rewards.items():
            known = OF_WISHES if domain == "everyday" else OF_PROBLEMS
            unknown = [name for name in sources if name not in known and not re.fullmatch(r".+\.py:\w+", name)]
            if unknown:
                raise ValueError(
                    f"rewards.{domain} names {', '.join(unknown)}: sources there are {', '.join(sorted(known))}, and "
                    "functions of your own as FILE.py:FUNCTION"
                )
            if "judge" in sources and self.judge is None:
                raise ValueError(f"rewards.{domain} names judge: say with reinforce.judge which model that is")
            if not any(sources.values()):
                raise ValueError(f"rewards.{domain} has no source with a weight: nothing could be learned")
        return self
