"""Asking an assistant: the question alone, in the chat format, as a user would put it.

Scores are greedy. Asked again at a temperature, a sure model gives the same final answer each time; how often it does
is its consistency. Neither needs to know what is right.
"""

from collections import Counter
from collections.abc import Sequence

from sapience.corpus.chat import ChatFormat, Message
from sapience.evaluation.answers import Said
from sapience.evaluation.few_shot import rows_at_once
from sapience.evaluation.judging import is_code
from sapience.inference.generate import Completion, generate
from sapience.model.transformer import Transformer
from sapience.problems.problem import Problem
from sapience.rewards.mathematics import boxed_answer
from sapience.rewards.source_code import fenced_source


def asked(chat: ChatFormat, problem: Problem, system: str) -> list[int]:
    """The prompt of a problem, behind a system message where one is given."""
    before = [Message("system", system)] if system else []
    return chat.prompt([*before, Message("user", problem.question)])


def zero_shot_answers(
    model: Transformer,
    chat: ChatFormat,
    problems: Sequence[Problem],
    *,
    answer_tokens: int,
    seed: int,
    system: str = "",
) -> list[Said]:
    """The most likely answer to each problem, in their order."""
    prompts = [asked(chat, problem, system) for problem in problems]
    completions = chat_completions(model, chat, prompts, answer_tokens, seed)
    return [
        Said(problem, problem.question, 0, chat.text(done.tokens), len(done.tokens), done.finished)
        for problem, done in zip(problems, completions, strict=True)
    ]


def chat_completions(
    model: Transformer,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    answer_tokens: int,
    seed: int,
    temperature: float = 0.0,
) -> list[Completion]:
    """What the assistant says after each prompt, up to its eos."""
    stops, rows = {chat.tokenizer.eos_id}, rows_at_once(prompts)
    return generate(model, prompts, answer_tokens, temperature=temperature, stop_ids=stops, seed=seed, batch_size=rows)


def consistency(
    model: Transformer,
    chat: ChatFormat,
    problems: Sequence[Problem],
    repeats: int,
    *,
    temperature: float,
    answer_tokens: int,
    seed: int,
    system: str = "",
) -> float:
    """Mean share that the most frequent final answer has among `repeats` answers to the same problem.

    1 is the same every time, 1/repeats another each time. An answer without a final answer agrees with none, so that
    rambling is not taken for certainty; a problem of such answers alone counts 0. ValueError without problems.
    """
    if not problems or repeats < 1:
        raise ValueError("consistency needs at least one problem and one answer to it")
    prompts = [asked(chat, problem, system) for problem in problems for _ in range(repeats)]
    completions = chat_completions(model, chat, prompts, answer_tokens, seed, temperature)
    texts = [chat.text(completion.tokens) for completion in completions]
    groups = [texts[place * repeats : (place + 1) * repeats] for place in range(len(problems))]
    return sum(agreement(problem, group) for problem, group in zip(problems, groups, strict=True)) / len(problems)


def agreement(problem: Problem, texts: Sequence[str]) -> float:
    """The most frequent final answer's share of `texts`."""
    finals = Counter(final for text in texts if (final := final_answer(problem, text)) is not None)
    return max(finals.values(), default=0) / len(texts)


def final_answer(problem: Problem, text: str) -> str | None:
    """What the answer comes to, white space aside: the box's content, or the program; None where there is neither."""
    final = fenced_source(text) if is_code(problem) else boxed_answer(text)
    if final is None:
        return None
    return (
        "\n".join(line.rstrip() for line in final.strip().splitlines()) if is_code(problem) else " ".join(final.split())
    )
