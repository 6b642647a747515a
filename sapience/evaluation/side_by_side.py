"""The same prompts answered by every model of the run, to be read beside one another.

An assistant is asked in the chat format. A base model is asked in the plain form that it met in its text, behind solved
examples where the prompt is a problem; what it says beyond the end of the line is left out. Nothing here is a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.few_shot import few_shot_answers, rows_at_once, stop_tokens
from sapience.evaluation.zero_shot import chat_completions
from sapience.inference.generate import generate
from sapience.model.transformer import Transformer
from sapience.problems.families import generate as generate_problems
from sapience.problems.problem import Problem
from sapience.recipe.evaluate import EvaluateSection, SidePrompt


@dataclass(frozen=True)
class SideQuestion:
    """A prompt with its words."""

    name: str
    turns: tuple[str, ...]
    problem: Problem | None

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        roles = ("user", "assistant")
        return {
            "name": self.name,
            "messages": [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(self.turns)],
            "expected": self.problem.answer if self.problem else None,
        }


def side_questions(prompts: Sequence[SidePrompt], seed: int) -> list[SideQuestion]:
    """The recipe's prompts in words. UserError for a problem family there is not."""
    return [_question(prompt, seed) for prompt in prompts]


def chat_side_answers(
    model: Transformer, chat: ChatFormat, questions: Sequence[SideQuestion], answer_tokens: int, seed: int
) -> list[str]:
    """An assistant's most likely answer to each prompt."""
    conversations = [
        [Message("user" if place % 2 == 0 else "assistant", turn) for place, turn in enumerate(question.turns)]
        for question in questions
    ]
    prompts = [chat.prompt(messages) for messages in conversations]
    return [chat.text(done.tokens) for done in chat_completions(model, chat, prompts, answer_tokens, seed)]


def plain_side_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[SideQuestion],
    section: EvaluateSection,
    window: int,
    seed: int,
) -> list[str]:
    """How a base model goes on behind `Problem: …` and `Answer:`, greedily, to the end of its answer."""
    problems = [question.problem for question in questions if question.problem is not None]
    answered = few_shot_answers(
        model, tokenizer, problems, shots=section.shots, window=window, answer_tokens=section.answer_tokens, seed=seed
    )
    solved = iter(said.text.strip() for said in answered)
    others = [question for question in questions if question.problem is None]
    prompts = [[tokenizer.bos_id, *tokenizer.encode(f"Problem: {' '.join(q.turns)}\nAnswer:")] for q in others]
    stops = stop_tokens(tokenizer, "\n")
    completions = generate(
        model, prompts, section.answer_tokens, stop_ids=stops, seed=seed, batch_size=rows_at_once(prompts)
    )
    texts = (tokenizer.decode([t for t in done.tokens if t != tokenizer.eos_id]) for done in completions)
    said = iter(text.split("\n")[0].strip() for text in texts)
    return [next(said) if question.problem is None else next(solved) for question in questions]


def _question(prompt: SidePrompt, seed: int) -> SideQuestion:
    if prompt.family is None:
        return SideQuestion(prompt.name, prompt.turns, None)
    problem = generate_problems(prompt.family, "test", 1, seed)[0]
    return SideQuestion(prompt.name, (problem.question,), problem)
