"""Short-question families of reasoning-gym, taken in as problems of ours.

The generator, the wording and the scorer are reasoning-gym's; here they are only chosen (questions that fit a short
window) and sized (numbers that a small model can handle). Its own scorer, which gives part of a point for a near
miss, stays reachable through `gym_score`. The package is imported when a family is used, since it loads slowly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

from sapience.problems.problem import Domain, Problem

LONGEST_QUESTION = 150
"""Characters; longer questions are passed over."""
_ENDLESS = 2**31 - 1
PREFIX = "rg_"

GYM_FAMILIES: dict[str, tuple[Domain, dict[str, Any]]] = {
    "chain_sum": ("math", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}),
    "basic_arithmetic": ("math", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}),
    "products": ("math", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 3}),
    "gcd": ("math", {"min_value": 2, "max_value": 100}),
    "lcm": ("math", {"min_value": 2, "max_value": 60}),
    "simple_equations": ("math", {"min_terms": 2, "max_terms": 3, "min_value": 1, "max_value": 20}),
    "count_bits": ("math", {"min_n": 1, "max_n": 9999}),
    "count_primes": ("math", {"min_n": 1, "max_n": 200}),
    "fraction_simplification": (
        "math",
        {"min_value": 1, "max_value": 30, "min_factor": 2, "max_factor": 9, "styles": ("plain",)},
    ),
    "spell_backward": ("general", {"max_word_len": 6}),
    "letter_counting": ("general", {"min_words": 3, "max_words": 6}),
    "number_filtering": ("general", {"min_numbers": 3, "max_numbers": 4, "max_decimals": 1}),
    "leg_counting": ("math", {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 9}),
}
"""reasoning-gym's name → our domain and the settings that keep questions short."""


@cache
def _gym() -> Any:
    import reasoning_gym

    return reasoning_gym


def gym_problems(family: str, seed: int) -> Iterator[Problem]:
    """Endless problems of one `rg_…` family in the order of its seed; questions may repeat."""
    name = family.removeprefix(PREFIX)
    domain, settings = GYM_FAMILIES[name]
    # reasoning-gym draws entry i from seed + i: neighbouring seeds would give the same problems, one place on
    start = Random(f"{family}:{seed}").getrandbits(30)
    dataset = _gym().create_dataset(name, seed=start, size=_ENDLESS, **settings)
    for index in range(_ENDLESS):
        entry = dataset[index]
        question, answer = _short(entry["question"]), str(entry["answer"])
        if len(question) > LONGEST_QUESTION:
            continue
        metadata = json.dumps(entry["metadata"], default=str)
        yield Problem(family, domain, question, answer, answer, metadata=metadata)


def _short(question: str) -> str:
    """The question without the explanation that some families put before it and the format hints after it."""
    question = question.split("\n\nNow, ")[-1].strip()
    return question[0].upper() + question[1:]


def gym_score(problem: Problem, answer: str) -> float:
    """reasoning-gym's own verdict between 0 and 1 on a bare answer (steps taken off, see `scoring.final_answer`)."""
    name = problem.family.removeprefix(PREFIX)
    _, settings = GYM_FAMILIES[name]
    dataset = _gym().create_dataset(name, seed=0, size=1, **settings)
    entry = {"question": problem.question, "answer": problem.answer, "metadata": json.loads(problem.metadata)}
    return float(dataset.score_answer(answer, entry))
