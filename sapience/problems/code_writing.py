"""Families that ask for a small Python function, with hidden tests.

A question is put together from phrases; each phrase carries the Python source that means it and a function that
computes it, and the tests' right values come from the functions, so that the canonical source can be checked against
something that was not derived from it. Nothing is executed here. One wording per meaning: with two, the same program
could stand on both sides of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sapience.problems.problem import Problem, TestCase
from sapience.problems.words import WORDS

TESTS_PER_PROBLEM = 6


@dataclass(frozen=True, slots=True)
class _Phrase:
    """Words, the source they mean and what it computes; `{}` in words and source stands for what it is applied to."""

    words: str
    source: str
    compute: Callable[[Any], Any]


def _problem(family: str, header: str, wish: str, body: str, arguments: Sequence[tuple[Any, ...]],
             compute: Callable[..., Any]) -> Problem:  # fmt: skip
    source = f"def f({header}):\n    {body}"
    tests = tuple(TestCase(args, compute(*args)) for args in arguments)
    question = f"Write a Python function f({header}) that returns {wish}."
    return Problem(family, "code", question, source, source, entry_point="f", tests=tests)


def _arithmetic(rng: Random) -> _Phrase:
    """A step that takes a number: 54 of them."""
    number = rng.randint(2, 19)
    return rng.choice(
        (
            _Phrase(f"{{}} plus {number}", f"{{}} + {number}", lambda x: x + number),
            _Phrase(f"{{}} minus {number}", f"{{}} - {number}", lambda x: x - number),
            _Phrase(f"{{}} times {number}", f"{{}} * {number}", lambda x: x * number),
        )
    )


def _condition(rng: Random, highest: int = 30) -> _Phrase:
    """Something that holds for a number or not: above, below, or divisible by a constant."""
    limit, divisor = rng.randint(2, highest), rng.randint(2, 9)
    return rng.choice(
        (
            _Phrase(f"above {limit}", f"{{}} > {limit}", lambda x: x > limit),
            _Phrase(f"below {limit}", f"{{}} < {limit}", lambda x: x < limit),
            _Phrase(f"divisible by {divisor}", f"{{}} % {divisor} == 0", lambda x: x % divisor == 0),
        )
    )


def _telling_numbers(rng: Random, condition: Callable[[int], Any]) -> list[tuple[int]]:
    """Arguments on both sides of a condition and at its edge, so that no branch is left out of the tests."""
    numbers = list(range(-20, 60))
    edges = [n for n in numbers[1:] if bool(condition(n)) != bool(condition(n - 1))]
    edge = rng.choice(edges)
    chosen = {edge - 1, edge}
    while len(chosen) < TESTS_PER_PROBLEM:
        chosen.add(rng.choice(numbers))
    return [(number,) for number in sorted(chosen)]


def _number_lists(rng: Random) -> list[tuple[list[int]]]:
    return [([rng.randint(-5, 40) for _ in range(rng.randint(4, 9))],) for _ in range(TESTS_PER_PROBLEM)]


def _draw_telling(draw: Callable[[Random], Problem], rng: Random) -> Problem:
    """The first problem whose tests have different right values: no constant may pass."""
    while True:
        problem = draw(rng)
        if len({repr(test.returns) for test in problem.tests if isinstance(test, TestCase)}) > 1:
            return problem


def _draw_composition(rng: Random) -> Problem:
    first, second = _arithmetic(rng), _arithmetic(rng)
    wish = f"{first.words.format('x')}, all of it {second.words.format('').strip()}"
    body = f"return {second.source.format('(' + first.source.format('x') + ')')}"
    arguments = [(number,) for number in rng.sample(range(-20, 60), TESTS_PER_PROBLEM)]
    return _problem("codefn", "x", wish, body, arguments, lambda x: second.compute(first.compute(x)))


_OF_TWO: tuple[tuple[str, str, Callable[[int, int], int]], ...] = (
    ("the larger of a and b", "max(a, b)", max),
    ("the smaller of a and b", "min(a, b)", min),
    ("the sum of a and b", "(a + b)", lambda a, b: a + b),
    ("the product of a and b", "(a * b)", lambda a, b: a * b),
    ("a minus b", "(a - b)", lambda a, b: a - b),
    ("the distance of a and b", "abs(a - b)", lambda a, b: abs(a - b)),
)
"""What is made of two numbers: words, source, and what it computes."""


def _draw_two_arguments(rng: Random) -> Problem:
    words, source, combine = rng.choice(_OF_TWO)
    step = _arithmetic(rng)
    wish = f"{words}, all of it {step.words.format('').strip()}"
    arguments = [(rng.randint(-20, 40), rng.randint(-20, 40)) for _ in range(TESTS_PER_PROBLEM)]
    return _problem("codefn", "a, b", wish, f"return {step.source.format(source)}", arguments,
                    lambda a, b: step.compute(combine(a, b)))  # fmt: skip


def _draw_condition(rng: Random) -> Problem:
    condition, first, second = _condition(rng), _arithmetic(rng), _arithmetic(rng)
    wish = f"{first.words.format('x')} if x is {condition.words}, otherwise {second.words.format('x')}"
    body = f"if {condition.source.format('x')}:\n        return {first.source.format('x')}\n"
    body += f"    return {second.source.format('x')}"
    return _problem("codefn", "x", wish, body, _telling_numbers(rng, condition.compute),
                    lambda x: first.compute(x) if condition.compute(x) else second.compute(x))  # fmt: skip


def draw_number_function(rng: Random) -> Problem:
    """Compositions (2 916), two arguments (324), conditions on numbers (192 456): 195 696 questions."""
    kinds = (_draw_composition, _draw_two_arguments, _draw_condition)
    return _draw_telling(rng.choices(kinds, weights=(3, 1, 3))[0], rng)


def _value_of_two(rng: Random) -> tuple[str, str, Callable[[int, int], int]]:
    """One of 114 values that two numbers give: a step that takes one of them, or something made of both."""
    if rng.random() < 0.3:
        words, source, combine = rng.choice(_OF_TWO)
        return words, source[1:-1] if source.startswith("(") else source, combine
    step, place = _arithmetic(rng), rng.randrange(2)
    name = "ab"[place]
    return step.words.format(name), step.source.format(name), lambda *both: step.compute(both[place])


def _draw_values(rng: Random) -> Problem:
    values = [_value_of_two(rng) for _ in range(2)]
    wish = f"the list of {' and then '.join(words for words, _, _ in values)}"
    arguments = [(rng.randint(-20, 40), rng.randint(-20, 40)) for _ in range(TESTS_PER_PROBLEM)]
    return _problem("codevalues", "a, b", wish, f"return [{', '.join(source for _, source, _ in values)}]", arguments,
                    lambda a, b: [compute(a, b) for _, _, compute in values])  # fmt: skip


def draw_values_function(rng: Random) -> Problem:
    """Two values of two numbers; 12 996 questions."""
    return _draw_telling(_draw_values, rng)


def _draw_slice(rng: Random) -> Problem:
    count = rng.randint(2, 4)
    part = rng.choice(
        (
            _Phrase(f"the first {count} items of v", f"v[:{count}]", lambda v: v[:count]),
            _Phrase(f"the last {count} items of v", f"v[-{count}:]", lambda v: v[-count:]),
            _Phrase("every second item of v", "v[::2]", lambda v: v[::2]),
            _Phrase("v", "v", lambda v: v),
        )
    )
    fold = rng.choice(
        (_Phrase("the sum of", "sum({})", sum), _Phrase("the largest of", "max({})", max),
         _Phrase("the smallest of", "min({})", min), _Phrase("the length of", "len({})", len))
    )  # fmt: skip
    step = _arithmetic(rng)
    wish = f"{fold.words} {part.words}, {step.words.format('').strip()}"
    body = f"return {step.source.format(fold.source.format(part.source))}"
    return _problem("codelist", "v", wish, body, _number_lists(rng),
                    lambda v: step.compute(fold.compute(part.compute(v))))  # fmt: skip


def _draw_filter(rng: Random) -> Problem:
    condition, step = _condition(rng), _arithmetic(rng)
    wish = f"the items of v {condition.words}, each {step.words.format('').strip()}"
    body = f"return [{step.source.format('x')} for x in v if {condition.source.format('x')}]"
    return _problem("codelist", "v", wish, body, _number_lists(rng),
                    lambda v: [step.compute(x) for x in v if condition.compute(x)])  # fmt: skip


def _draw_count(rng: Random) -> Problem:
    condition, step = _condition(rng), _arithmetic(rng)
    wish = f"how many items of v are {condition.words}, {step.words.format('').strip()}"
    counted = f"len([x for x in v if {condition.source.format('x')}])"
    return _problem("codelist", "v", wish, f"return {step.source.format(counted)}", _number_lists(rng),
                    lambda v: step.compute(len([x for x in v if condition.compute(x)])))  # fmt: skip


def draw_list_function(rng: Random) -> Problem:
    """Slices, filters and counts over a list of numbers; 8 532 questions."""
    return _draw_telling(rng.choice((_draw_slice, _draw_filter, _draw_count)), rng)


def _draw_string(rng: Random) -> Problem:
    count, times, ending = rng.randint(2, 5), rng.randint(2, 4), rng.choice("abcdefghijklmnopqrstuvwxyz")
    part = rng.choice(
        (
            _Phrase(f"the first {count} letters of s", f"s[:{count}]", lambda s: s[:count]),
            _Phrase(f"the last {count} letters of s", f"s[-{count}:]", lambda s: s[-count:]),
            _Phrase(f"s without its first {count} letters", f"s[{count}:]", lambda s: s[count:]),
            _Phrase("s reversed", "s[::-1]", lambda s: s[::-1]),
        )
    )
    change = rng.choice(
        (
            _Phrase(" in upper case", "{}.upper()", lambda s: s.upper()),
            _Phrase(f", {times} times", f"{{}} * {times}", lambda s: s * times),
            _Phrase("", "{}", lambda s: s),
        )
    )
    join = rng.choice(
        (
            _Phrase(f", then {ending}", f'{{}} + "{ending}"', lambda s: s + ending),
            _Phrase(f", after {ending}", f'"{ending}" + {{}}', lambda s: ending + s),
        )
    )
    wish = part.words + change.words + join.words
    body = f"return {join.source.format(change.source.format(part.source))}"
    arguments = [(word,) for word in rng.sample([word for word in WORDS if len(word) > 4], TESTS_PER_PROBLEM)]
    return _problem("codestr", "s", wish, body, arguments,
                    lambda s: join.compute(change.compute(part.compute(s))))  # fmt: skip


def draw_string_function(rng: Random) -> Problem:
    """Two or three steps on a string: a part of it, a change, something joined on; 3 380 questions."""
    return _draw_telling(_draw_string, rng)
