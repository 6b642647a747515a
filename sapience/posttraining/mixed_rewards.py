"""What an answer is worth in `reinforce`: rules where there are rules, the reward model for the rest (V3 report, 5.2.1).

problem          rule_weight * right + format_weight * asked format + language_weight * language of the question
everyday wish    model_weight * sigmoid(score) + manner_weight * right kind of answer + language_weight * language of the
                 question
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sapience.corpus.chat import Message
from sapience.posttraining.rollouts import Prompt, Reward
from sapience.posttraining.rule_rewards import problem_of
from sapience.posttraining.wishes import right_kind
from sapience.problems.everyday import behaves
from sapience.recipe.reinforce import ReinforceSection
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
            "rule": self.section.rule_weight * verdict.right,
            "format": self.section.format_weight * (verdict.kind != "format_error"),
            "language": self._language(prompt, text),
        }
        return Reward(sum(sources.values()), sources, verdict.kind)

    def _of_wish(self, prompt: Prompt, text: str, score: float) -> Reward:
        sources = {
            "model": self.section.model_weight / (1 + math.exp(-max(-50.0, min(50.0, score)))),
            "manner": self.section.manner_weight * behaves(right_kind(prompt.category), text),
            "language": self._language(prompt, text),
        }
        return Reward(sum(sources.values()), sources)

    def _language(self, prompt: Prompt, text: str) -> float:
        language = "zh" if prompt.language == "zh" else "en"
        return self.section.language_weight * language_consistent(text, language)  # type: ignore[arg-type]
