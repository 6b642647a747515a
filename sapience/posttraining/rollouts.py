"""Prompts, the answers drawn to them, and what they were worth: typed records from sampling to the log.

A prompt with a problem is judged by rules; one without, an everyday wish, by the reward model. Every answer is kept with
its tokens, log-probabilities, verdict and rewards by source.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sapience.corpus.chat import ChatFormat, Message
from sapience.inference.generate import Completion, generate
from sapience.model.transformer import Transformer
from sapience.problems.problem import Problem
from sapience.rewards.language import language_of


@dataclass(frozen=True)
class Prompt:
    """What is asked."""

    messages: tuple[Message, ...]
    category: str
    """The problem's family, or the kind of everyday wish."""
    problem: Problem | None = None
    language: str = "en"

    @staticmethod
    def of(problem: Problem, system: str = "") -> "Prompt":
        """A problem as a user would put it, behind a system message where one is given."""
        before = (Message("system", system),) if system else ()
        language = language_of(problem.question)
        return Prompt((*before, Message("user", problem.question)), problem.family, problem, language)


@dataclass(frozen=True)
class Reward:
    """What an answer is worth."""

    value: float | None
    """None where nobody could tell (the grader's infrastructure failed): the answer is dropped and counted."""
    sources: dict[str, float]
    """By source of reward, before they are added up."""
    verdict: str = ""
    """Kind of the rules' verdict, where rules judged."""

    @property
    def right(self) -> bool:
        """True where the rules said so."""
        return self.verdict == "ok"


Judge = Callable[[Sequence[Prompt], Sequence[str]], list[Reward]]
"""Prompts and answers, one to one -> rewards."""


@dataclass
class Rollout:
    """One drawn answer."""

    prompt: Prompt
    prompt_tokens: list[int]
    completion: Completion
    text: str
    reward: Reward
    advantage: float | None = None
    """None where the group had no spread, or nobody could tell: nothing is learned from it."""

    def record(self) -> dict[str, Any]:
        """A JSON-able copy, readable by people: the whole conversation, and what was thought of it."""
        return {
            "category": self.prompt.category,
            "problem": self.prompt.problem.identity if self.prompt.problem else None,
            "expected": self.prompt.problem.answer if self.prompt.problem else None,
            "messages": [{"role": m.role, "content": m.content} for m in self.prompt.messages],
            "text": self.text,
            "reward": self.reward.value,
            "sources": self.reward.sources,
            "verdict": self.reward.verdict,
            "advantage": self.advantage,
            "finished": self.completion.finished,
            "tokens": self.completion.tokens,
            "logprobs": [round(value, 5) for value in self.completion.logprobs],
        }


def draw(
    model: Transformer,
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    samples: int,
    judge: Judge,
    *,
    answer_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 256,
) -> list[list[Rollout]]:
    """`samples` answers to every prompt, judged; one list per prompt."""
    encoded = [chat.prompt(prompt.messages) for prompt in prompts]
    repeated = [tokens for tokens in encoded for _ in range(samples)]
    completions = generate(
        model,
        repeated,
        answer_tokens,
        temperature=temperature,
        stop_ids={chat.tokenizer.eos_id},
        seed=seed,
        batch_size=batch_size,
        recorded=True,  # there are more iterations to come
    )
    texts = [chat.text(completion.tokens) for completion in completions]
    asked = [prompt for prompt in prompts for _ in range(samples)]
    rewards = judge(asked, texts)
    drawn = [
        Rollout(prompt, tokens, completion, text, reward)
        for prompt, tokens, completion, text, reward in zip(asked, repeated, completions, texts, rewards, strict=True)
    ]
    return list(_groups(drawn, samples))


def _groups(rollouts: Sequence[Rollout], size: int) -> Iterator[list[Rollout]]:
    for start in range(0, len(rollouts), size):
        yield list(rollouts[start : start + size])
