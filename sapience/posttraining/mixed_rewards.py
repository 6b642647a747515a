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
from sapience.posttraining.rubric_judge import RubricJudge
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
    rubric: RubricJudge | None = None
    """The general model that judges, where the recipe names one."""
    own: dict[str, OwnReward] = field(default_factory=dict)
    """Functions of the user's that were loaded so far."""

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
        """One reward per answer; None as its value where the grader failed."""
        problems = [i for i, prompt in enumerate(prompts) if prompt.problem is not None]
        wishes = [i for i, prompt in enumerate(prompts) if prompt.problem is None]
        judged = self._judged(prompts, texts)
        verdicts = self.rules.judge_texts([problem_of(prompts[i]) for i in problems], [texts[i] for i in problems])
        rewards = {
            i: self._of_problem(prompts[i], texts[i], v, judged.get(i)) for i, v in zip(problems, verdicts, strict=True)
        }
        if wishes:
            if self.scores is None:
                raise ValueError("everyday wishes need a reward model")
            scores = self.scores([(*prompts[i].messages, Message("assistant", texts[i])) for i in wishes])
            rewards |= {
                i: self._of_wish(prompts[i], texts[i], s, judged.get(i)) for i, s in zip(wishes, scores, strict=True)
            }
        return [rewards[i] for i in range(len(prompts))]

    def _judged(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> dict[int, float | None]:
        """What the general model says of the answers whose domain asks for it; None where it could not tell."""
        places = [i for i, prompt in enumerate(prompts) if "judge" in self.section.weights(_domain(prompt))]
        if not places or self.rubric is None:
            return {}
        asked = [
            (prompts[i].messages, texts[i], problem.answer if (problem := prompts[i].problem) else "") for i in places
        ]
        return dict(zip(places, self.rubric.scores(asked), strict=True))

    def _of_problem(self, prompt: Prompt, text: str, verdict: Verdict, judged: float | None = None) -> Reward:
        if verdict.kind == "infra_error" or self._untold(prompt, judged):
            return Reward(None, {}, verdict.kind)
        sources = {
            "rule": lambda: float(verdict.right),
            "tests": lambda: verdict.passed / verdict.total if verdict.total else float(verdict.right),
            "format": lambda: float(verdict.kind != "format_error"),
            "judge": lambda: judged or 0.0,
        }
        parts = self._parts(prompt, text, sources)
        return Reward(sum(parts.values()), parts, verdict.kind)

    def _of_wish(self, prompt: Prompt, text: str, score: float, judged: float | None = None) -> Reward:
        if self._untold(prompt, judged):
            return Reward(None, {})
        sources = {
            "model": lambda: 1 / (1 + math.exp(-max(-50.0, min(50.0, score)))),
            "manner": lambda: float(behaves(right_kind(prompt.category), text)),
            "judge": lambda: judged or 0.0,
        }
        parts = self._parts(prompt, text, sources)
        return Reward(sum(parts.values()), parts)

    def _untold(self, prompt: Prompt, judged: float | None) -> bool:
        """Whether the general model was asked and could not tell."""
        return judged is None and "judge" in self.section.weights(_domain(prompt))

    def _parts(self, prompt: Prompt, text: str, sources: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """The weighted worth by source, in the recipe's order."""
        parts = {}
        for name, weight in self.section.weights(_domain(prompt)).items():
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


def _domain(prompt: Prompt) -> str:
    return "everyday" if prompt.problem is None else prompt.problem.domain


def brevity(text: str, section: RewardsSection) -> float:
    """One up to `short` characters, falling in a line to zero at `long`."""
    return min(1.0, max(0.0, (section.long - len(text)) / (section.long - section.short)))
