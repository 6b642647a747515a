"""What an answer is worth in `reinforce`: rules where there are rules, the reward model for the rest (V3 report, 5.2.1).

A recipe names sources and weights for each domain (`reinforce.rewards`); an answer's worth is their weighted sum, and each
part is kept with the sample. A source is one small function here, or the user's own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sapience.corpus.chat import Message
from sapience.posttraining.own_reward import OwnReward, load_own_reward
from sapience.posttraining.rollouts import Prompt, Reward
from sapience.posttraining.rule_rewards import problem_of
from sapience.posttraining.wishes import right_kind
from sapience.problems.everyday import behaves
from sapience.recipe.reinforce import ReinforceSection
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.language import language_consistent
from sapience.rewards.rules import RuleJudge
from sapience.rewards.verdict import Verdict

Scores = Callable[[Sequence[Sequence[Message]]], list[float]]
"""Conversations that end with an answer -> the reward model's scores."""


@dataclass(frozen=True)
class MixedJudge:
    """A `Judge` of problems and everyday wishes."""

    section: ReinforceSection
    rules: RuleJudge
    scores: Scores | None
    """None where there is no reward model; everyday wishes may then not be asked."""
    own: dict[str, OwnReward] = field(default_factory=dict)
    """Functions of the user's that were loaded so far."""

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
        """One reward per answer; None as its value where the grader failed."""
        problems = [i for i, prompt in enumerate(prompts) if prompt.problem is not None]
        wishes = [i for i, prompt in enumerate(prompts) if prompt.problem is None]
        verdicts = self.rules.judge_texts([problem_of(prompts[i]) for i in problems], [texts[i] for i in problems])
        rewards = {i: self._of_problem(prompts[i], texts[i], v) for i, v in zip(problems, verdicts, strict=True)}
        if wishes:
            if self.scores is None:
                raise ValueError("everyday wishes need a reward model")
            scores = self.scores([(*prompts[i].messages, Message("assistant", texts[i])) for i in wishes])
            rewards |= {i: self._of_wish(prompts[i], texts[i], s) for i, s in zip(wishes, scores, strict=True)}
        return [rewards[i] for i in range(len(prompts))]

    def _of_problem(self, prompt: Prompt, text: str, verdict: Verdict) -> Reward:
        if verdict.kind == "infra_error":
            return Reward(None, {}, verdict.kind)
        sources = {
            "rule": lambda: float(verdict.right),
            "tests": lambda: verdict.passed / verdict.total if verdict.total else float(verdict.right),
            "format": lambda: float(verdict.kind != "format_error"),
        }
        domain = problem_of(prompt).domain
        parts = self._parts(domain, prompt, text, sources)
        return Reward(sum(parts.values()), parts, verdict.kind)

    def _of_wish(self, prompt: Prompt, text: str, score: float) -> Reward:
        sources = {
            "model": lambda: 1 / (1 + math.exp(-max(-50.0, min(50.0, score)))),
            "manner": lambda: float(behaves(right_kind(prompt.category), text)),
        }
        parts = self._parts("everyday", prompt, text, sources)
        return Reward(sum(parts.values()), parts)

    def _parts(
        self, domain: str, prompt: Prompt, text: str, sources: Mapping[str, Callable[[], float]]
    ) -> dict[str, float]:
        """The weighted worth by source, in the recipe's order."""
        parts = {}
        for name, weight in self.section.weights(domain).items():
            if name == "language":
                worth = float(language_consistent(text, "zh" if prompt.language == "zh" else "en"))
            elif name == "length":
                worth = brevity(text, self.rules.section)
            elif name in sources:
                worth = sources[name]()
            else:
                worth = self._own(name)(prompt.messages[-1].content, text)
            parts[name] = weight * worth
        return parts

    def _own(self, name: str) -> OwnReward:
        if name not in self.own:
            self.own[name] = load_own_reward(name)
        return self.own[name]


def brevity(text: str, section: RewardsSection) -> float:
    """One up to `short` characters, falling in a line to zero at `long`."""
    return min(1.0, max(0.0, (section.long - len(text)) / (section.long - section.short)))
