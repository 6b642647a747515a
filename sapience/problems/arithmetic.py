"""Families about numbers: picking from a short list, adding, multiplying by one digit, chains, conditions in symbols.

Each drawing function makes one problem from a random generator; the numbers of distinct questions stand in its
docstring. Worked steps are short, because a demonstration has to fit the window of a very small model, and each
step copies only numbers that stand close by. Division and long operands are left to the reasoning-gym families.
"""

from __future__ import annotations

from random import Random

from sapience.problems.problem import ANSWER_MARK, Problem


def _problem(family: str, question: str, answer: object, steps: str = "") -> Problem:
    worked = f"{steps}{ANSWER_MARK}{answer}" if steps else str(answer)
    return Problem(family, "math", question, str(answer), worked)


def _distinct_numbers(rng: Random) -> list[int]:
    return rng.sample(range(10, 100), rng.randint(3, 5))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def draw_largest(rng: Random) -> Problem:
    """Largest of 3-5 different two-digit numbers; more than 5 billion questions. Worked: the largest so far."""
    numbers = _distinct_numbers(rng)
    so_far = [max(numbers[: place + 1]) for place in range(len(numbers))]
    return _problem("maxn", f"Which number is the largest: {_listed(numbers)}?", max(numbers), _listed(so_far))


def draw_smallest(rng: Random) -> Problem:
    """Smallest of 3-5 different two-digit numbers; more than 5 billion questions. Worked: the smallest so far."""
    numbers = _distinct_numbers(rng)
    so_far = [min(numbers[: place + 1]) for place in range(len(numbers))]
    return _problem("minn", f"Which number is the smallest: {_listed(numbers)}?", min(numbers), _listed(so_far))


def draw_second_largest(rng: Random) -> Problem:
    """Second largest of 3-5 different two-digit numbers; more than 5 billion questions. Worked: the numbers from the largest
    down."""
    return _ranked(rng, "secondn", "second largest", 1)


def draw_third_largest(rng: Random) -> Problem:
    """Third largest of 3-5 different two-digit numbers; more than 5 billion questions. Worked: as for the second."""
    return _ranked(rng, "thirdn", "third largest", 2)


def _ranked(rng: Random, family: str, wanted: str, place: int) -> Problem:
    numbers = _distinct_numbers(rng)
    falling = sorted(numbers, reverse=True)
    return _problem(family, f"Which number is the {wanted}: {_listed(numbers)}?", falling[place], _listed(falling))


def draw_sorting(rng: Random) -> Problem:
    """3-4 different two-digit numbers in ascending order; more than 60 million questions. No steps."""
    numbers = rng.sample(range(10, 100), rng.randint(3, 4))
    return _problem("sortn", f"Sort: {_listed(numbers)}.", _listed(sorted(numbers)))


def draw_product(rng: Random) -> Problem:
    """One digit (2-9) times 11-239; 1 832 questions, half of the draws below 100. Worked by tens and ones.

    Factors up to 239 are there for the count alone: with two digits only 712 questions exist, too few for a test.
    """
    digit = rng.randint(2, 9)
    factor = rng.randint(11, 99) if rng.random() < 0.5 else rng.randint(100, 239)
    tens, ones = factor - factor % 10, factor % 10
    steps = f"{digit} * {tens} = {digit * tens}, {digit} * {ones} = {digit * ones}, {digit * tens} + {digit * ones}"
    return _problem("mul1", f"What is {digit} * {factor}?", digit * factor, steps)


def draw_sum(rng: Random) -> Problem:
    """Two two-digit numbers added; 8 100 questions. Worked by tens and ones."""
    left, right = rng.randint(10, 99), rng.randint(10, 99)
    tens, ones = left // 10 * 10 + right // 10 * 10, left % 10 + right % 10
    steps = f"{left // 10 * 10} + {right // 10 * 10} = {tens}, {left % 10} + {right % 10} = {ones}, {tens} + {ones}"
    return _problem("add", f"What is {left} + {right}?", left + right, steps)


def draw_chain(rng: Random) -> Problem:
    """`a ± b ± c` with a up to 20, b and c one digit, nothing below zero; 5 526 questions. Worked from the left."""
    while True:
        first, second, third = rng.randint(1, 20), rng.randint(1, 9), rng.randint(1, 9)
        signs = rng.choice("+-"), rng.choice("+-")
        middle = first + second if signs[0] == "+" else first - second
        last = middle + third if signs[1] == "+" else middle - third
        if middle >= 0 and last >= 0:
            break
    steps = f"{first} {signs[0]} {second} = {middle}, {middle} {signs[1]} {third}"
    return _problem("chain", f"What is {first} {signs[0]} {second} {signs[1]} {third}?", last, steps)


_OPERATIONS = {"plus": "+", "minus": "-", "times": "*"}
_RELATIONS = {"above": ">", "below": "<", "at least": ">=", "at most": "<="}


def draw_condition(rng: Random) -> Problem:
    """A condition on x in words, to be written in symbols; more than a million questions. A translation has no steps.

    `x plus 12, times 4, is above 40` is `(x + 12) * 4 > 40`: parentheses where the order of the words needs them.
    """
    first, second = (rng.choice(list(_OPERATIONS)) for _ in range(2))
    one, other, limit = rng.randint(2, 19), rng.randint(2, 19), rng.randint(10, 99)
    relation = rng.choice(list(_RELATIONS))
    inner = f"x {_OPERATIONS[first]} {one}"
    grouped = f"({inner})" if second == "times" and first != "times" else inner
    both = f"{grouped} {_OPERATIONS[second]} {other}"
    question = f"Write in symbols: x {first} {one}, {second} {other}, is {relation} {limit}."
    return _problem("symbols", question, f"{both} {_RELATIONS[relation]} {limit}")
