"""Few-shot cloze of the problem families: can a base model answer questions it never saw?

Some solved training problems of the family, then an unseen question; the model goes on greedily and is read
up to the end of its answer. A base model is asked in the plain form it met in its text, without chat tokens.
Every prompt and answer is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from sapience.evaluation.answers import Said
from sapience.inference.generate import generate
from sapience.model.transformer import Transformer
from sapience.problems.families import generate as generate_problems
from sapience.problems.plain import SEPARATOR, few_shot_prompt
from sapience.problems.problem import Problem

MOST_ROWS = 256
MOST_TOKENS = 32_768
"""Prompts, and tokens of them, that are answered together: many at once is fast, and memory has to hold them."""


class Vocabulary(Protocol):
    """What is needed of a tokenizer."""

    bos_id: int
    eos_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


def few_shot_answers(
    model: Transformer,
    tokenizer: Vocabulary,
    problems: Sequence[Problem],
    *,
    shots: int,
    window: int,
    answer_tokens: int,
    seed: int,
    solved: Mapping[str, Sequence[Problem]] | None = None,
) -> list[Said]:
    """Asks each problem behind up to `shots` training problems of its family; answers in the order of `problems`.

    `solved` are the training problems of families that are not generated but read from files; there may be none.

    Shots are left out, the last first, where prompt and answer would not fit into `window` tokens. Families whose
    answers are of one line are answered together, and so are the others. UserError for a family there is not.
    """
    lines: dict[str, bool] = {}
    for problem in problems:
        one_line = bool(problem.answer) and "\n" not in problem.answer
        lines[problem.family] = lines.get(problem.family, True) and one_line
    examples = {family: _examples(family, shots, seed, solved or {}) for family in lines}
    said: dict[int, Said] = {}
    for end, one_line in (("\n", True), (SEPARATOR, False)):
        places = [place for place, problem in enumerate(problems) if lines[problem.family] == one_line]
        if not places:
            continue
        asked = [
            fitting_prompt(tokenizer, examples[problems[p].family], problems[p], window - answer_tokens) for p in places
        ]
        stops = stop_tokens(tokenizer, end)
        encoded = [tokens for _, tokens, _ in asked]
        completions = generate(
            model, encoded, answer_tokens, stop_ids=stops, seed=seed, batch_size=rows_at_once(encoded)
        )
        for place, (prompt, _, number), completion in zip(places, asked, completions, strict=True):
            tokens = [token for token in completion.tokens if token != tokenizer.eos_id]
            text = tokenizer.decode(tokens).split(end)[0]
            length = len(completion.tokens)
            said[place] = Said(problems[place], prompt, number, text, length, completion.finished)
    return [said[place] for place in range(len(problems))]


def _examples(family: str, shots: int, seed: int, solved: Mapping[str, Sequence[Problem]]) -> Sequence[Problem]:
    if family in solved:
        return solved[family][:shots]
    return generate_problems(family, "train", shots, seed) if shots else []


def rows_at_once(prompts: Sequence[Sequence[int]]) -> int:
    """How many of the prompts to answer together; answers do not depend on it."""
    return max(1, min(MOST_ROWS, MOST_TOKENS // max(map(len, prompts), default=1)))


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
