"""All generated families by name, and `generate`, the only door through which stages get problems.

A family is a function from a random generator to one problem. `generate` draws from it until it has enough different
questions of the wanted side of the split: the same call gives the same problems everywhere, two splits never meet
whatever the seeds are, and a shorter list is the beginning of a longer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from sapience.problems import arithmetic, code_writing, number_words, sequences
from sapience.problems.problem import Problem, Split, split_of
from sapience.problems.procedural import GYM_FAMILIES, PREFIX, gym_problems
from sapience.recipe.errors import UserError

OWN_FAMILIES: dict[str, Callable[[Random], Problem]] = {
    "maxn": arithmetic.draw_largest,
    "minn": arithmetic.draw_smallest,
    "secondn": arithmetic.draw_second_largest,
    "thirdn": arithmetic.draw_third_largest,
    "sortn": arithmetic.draw_sorting,
    "mul1": arithmetic.draw_product,
    "add": arithmetic.draw_sum,
    "chain": arithmetic.draw_chain,
    "symbols": arithmetic.draw_condition,
    "countl": sequences.draw_letter_count,
    "lookup": sequences.draw_person,
    "item": sequences.draw_item,
    "after": sequences.draw_successor,
    "reverse": sequences.draw_reversal,
    "copy": sequences.draw_repetition,
    "without": sequences.draw_removal,
    "numword": number_words.draw_number_word,
    "codefn": code_writing.draw_number_function,
    "codelist": code_writing.draw_list_function,
    "codevalues": code_writing.draw_values_function,
    "codestr": code_writing.draw_string_function,
}
FAMILIES: tuple[str, ...] = (*OWN_FAMILIES, *(PREFIX + name for name in GYM_FAMILIES))
_PATIENCE = 20_000
"""Draws in a row without a new question after which a family counts as used up."""


def generate(family: str, split: Split, count: int, seed: int) -> list[Problem]:
    """`count` different problems of one side of the split.

    Raises UserError for an unknown family and where the family has fewer different questions than asked for.
    """
    if family not in FAMILIES:
        raise UserError(f"there is no problem family '{family}': choose from {', '.join(FAMILIES)}")
    problems: dict[str, Problem] = {}
    idle = 0
    for problem in _endless(family, seed):
        if len(problems) >= count:
            break
        if problem.question not in problems and split_of(problem.question) == split:
            problems[problem.question] = problem
            idle = 0
        else:
            idle += 1
        if idle == _PATIENCE:
            raise UserError(
                f"problem family '{family}' has only about {len(problems)} different questions in its {split} split, "
                f"{count} were asked for: ask for fewer or name more families"
            )
    return list(problems.values())


def _endless(family: str, seed: int) -> Iterator[Problem]:
    if family not in OWN_FAMILIES:
        yield from gym_problems(family, seed)
        return
    draw, rng = OWN_FAMILIES[family], Random(f"{family}:{seed}")
    while True:
        yield draw(rng)
