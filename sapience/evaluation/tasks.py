"""Few-shot cloze of the problem families: can the model answer questions it never saw?

Some solved training problems of the family, then an unseen question; the model goes on greedily and is read
up to the end of its answer. A base model is asked in the plain form it met in its text, without chat tokens.
Every prompt and answer is kept. Code is compared as text here, not executed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sapience.evaluation.scoring import Score, score_of
from sapience.inference.generate import generate
from sapience.model.transformer import Transformer
from sapience.problems.families import FAMILIES, OWN_FAMILIES
from sapience.problems.families import generate as generate_problems
from sapience.problems.plain import SEPARATOR, few_shot_prompt
from sapience.problems.problem import Problem
from sapience.problems.scoring import score
from sapience.recipe.errors import UserError


class Vocabulary(Protocol):
    """What is needed of a tokenizer."""

    bos_id: int
    eos_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One question, what the model said, and whether that is right."""

    family: str
    identity: str
    shots: int
    prompt: str
    produced: str
    answer: str
    correct: bool

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def family_names(chosen: Sequence[str]) -> list[str]:
    """The chosen families, or all that need no further package. UserError for a name there is not."""
    unknown = sorted(set(chosen) - set(FAMILIES))
    if unknown:
        raise UserError(
            f"evaluate.families names what there is not: {', '.join(unknown)}; choose from {', '.join(FAMILIES)}"
        )
    return list(chosen) if chosen else list(OWN_FAMILIES)


def solve_family(
    model: Transformer,
    tokenizer: Vocabulary,
    family: str,
    count: int,
    *,
    shots: int,
    window: int,
    answer_tokens: int,
    seed: int,
) -> list[TaskResult]:
    """Asks `count` test problems of `family` behind up to `shots` training problems.

    Shots are left out, the last first, where prompt and answer would not fit into `window` tokens. UserError
    where the family has fewer different test problems.
    """
    problems = generate_problems(family, "test", count, seed)
    examples = generate_problems(family, "train", shots, seed) if shots else []
    prompts, encoded, shown = [], [], []
    for problem in problems:
        prompt, tokens, number = fitting_prompt(tokenizer, examples, problem, window - answer_tokens)
        prompts.append(prompt)
        encoded.append(tokens)
        shown.append(number)
    one_line = all("\n" not in problem.answer for problem in problems)
    end = "\n" if one_line else SEPARATOR
    completions = generate(
        model, encoded, answer_tokens, temperature=0.0, stop_ids=stop_tokens(tokenizer, end), seed=seed
    )
    results = []
    for problem, prompt, number, completion in zip(problems, prompts, shown, completions, strict=True):
        tokens = [token for token in completion.tokens if token != tokenizer.eos_id]
        produced = tokenizer.decode(tokens).split(end)[0]
        results.append(
            TaskResult(family, problem.identity, number, prompt, produced, problem.answer, score(problem, produced))
        )
    return results


def fitting_prompt(
    tokenizer: Vocabulary, examples: Sequence[Problem], problem: Problem, limit: int
) -> tuple[str, list[int], int]:
    """The prompt with as many of `examples` as fit into `limit` tokens: text, tokens with bos, number of
    examples.

    A question that is too long even alone is asked all the same, so that no problem is silently dropped.
    """
    for number in range(len(examples), -1, -1):
        prompt = few_shot_prompt(examples[:number], problem)
        tokens = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        if len(tokens) <= limit:
            break
    return prompt, tokens, number


def stop_tokens(tokenizer: Vocabulary, end: str) -> set[int]:
    """eos and all tokens whose bytes contain `end`."""
    wanted = end.encode()
    return {tokenizer.eos_id} | {
        token for token in range(tokenizer.vocab_size) if wanted in tokenizer.token_bytes(token)
    }


def family_scores(results: Sequence[TaskResult]) -> dict[str, Score]:
    """Score by family, in the order of first appearance."""
    families = dict.fromkeys(result.family for result in results)
    return {family: score_of([r.correct for r in results if r.family == family]) for family in families}
