"""Rules as a reward: right or not, by box or by hidden tests; and held-out problems answered along the way.

What the grader's own failure left unjudged has no reward at all: it is dropped and counted, never called wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sapience.corpus.chat import ChatFormat
from sapience.model.transformer import Transformer
from sapience.posttraining.rollouts import Judge, Prompt, Reward, draw
from sapience.problems.problem import Problem
from sapience.recipe.policy import PolicySection
from sapience.rewards.rules import RuleJudge
from sapience.run import kept_text
from sapience.training.metrics import MetricsLog


def right_or_wrong(rules: RuleJudge) -> Judge:
    """One point for a right answer."""

    def judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
        verdicts = rules.judge_texts([problem_of(prompt) for prompt in prompts], texts)
        return [
            Reward(None, {}, verdict.kind)
            if verdict.kind == "infra_error"
            else Reward(float(verdict.right), {"rule": float(verdict.right)}, verdict.kind)
            for verdict in verdicts
        ]

    return judge


def noting_sandbox(judge: Judge, rules: RuleJudge, folder: Path) -> Judge:
    """The same judge, which keeps in `folder` where programs ran as soon as one has: a later session may judge none."""

    def judged(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
        rewards = judge(prompts, texts)
        sandbox_of(rules, folder)
        return rewards

    return judged


def sandbox_of(rules: RuleJudge, folder: Path) -> str:
    """Where programs of the stage in `folder` ran, in this session or before; empty where there were none."""
    return kept_text(folder / "sandbox.txt", rules.description)


def problem_of(prompt: Prompt) -> Problem:
    """The prompt's problem. Raises ValueError for an everyday wish, which no rule can judge."""
    if prompt.problem is None:
        raise ValueError("rules judge answers to problems only")
    return prompt.problem


def validation(
    model: Transformer,
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    judge: Judge,
    section: PolicySection,
    log: MetricsLog,
) -> Callable[[int], None]:
    """A function that answers `prompts` greedily after an iteration and logs the share right to `validations.jsonl`."""

    def validate(iteration: int) -> None:
        groups = draw(
            model, chat, prompts, 1, judge, answer_tokens=section.answer_tokens, temperature=0.0, seed=iteration
        )
        judged = [group[0] for group in groups if group[0].reward.value is not None]
        if not judged:
            return
        log.write(
            "validations",
            {
                "step": iteration,
                "right": round(sum(r.reward.right for r in judged) / len(judged), 4),
                "reward": round(sum(r.reward.value or 0.0 for r in judged) / len(judged), 4),
                "problems": len(judged),
                "answer_tokens": round(sum(len(r.completion.tokens) for r in judged) / len(judged), 2),
            },
        )

    return validate
