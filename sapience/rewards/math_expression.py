r"""A mathematical expression as a small tree, and what can be said of it without algebra.

`math_parsing` makes such trees of text. `exact` evaluates what rational arithmetic can, in bounded time: a tower such as
`5^{5^{5^5}}` is refused before anything is raised to its power.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial

from sapience.rewards.math_text import UnreadableError

_MOST_BITS = 20_000
"""Of a rational number's numerator or denominator, about 6 000 decimal digits."""
LARGEST_FACTORIAL = 1000

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp".split(),
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number that was written down as one: an integer, a decimal, a mixed number."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Name:
    r"""A letter, with its index if it has one, a Greek letter, or a constant (`\pi`, e, i)."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation: `+ - * / ^ neg sqrt root ! binom abs deg`, a function of `FUNCTIONS`, `logb` (base first), `digits`."""

    operation: str
    arguments: tuple[Expression, ...]


Expression = Number | Name | Apply


def names(expression: Expression) -> frozenset[str]:
    """The names in it, constants among them."""
    if isinstance(expression, Name):
        return frozenset({expression.name})
    if isinstance(expression, Number):
        return frozenset()
    return frozenset().union(*(names(argument) for argument in expression.arguments))


def is_plain(expression: Expression) -> bool:
    """Whether it is a number written out, with nothing left to compute: 7, -1.5, 6/8, 10^6, 3*10^8, but not 8/2 or 2^10."""
    if isinstance(expression, Number):
        return True
    if not isinstance(expression, Apply):
        return False
    operation, arguments = expression.operation, expression.arguments
    if operation == "neg":
        return is_plain(arguments[0])
    if operation == "/":
        return _is_fraction(*arguments)
    if operation == "*":
        return _is_literal(arguments[0]) and _is_power_of_ten(arguments[1])
    return _is_power_of_ten(expression)


def _is_fraction(above: Expression, below: Expression) -> bool:
    """Whole numbers above and below; what is a whole number itself is a division that was not done."""
    if not (_is_literal(above) and _is_literal(below)):
        return False
    parts = exact(above), exact(below)
    if None in parts or parts[1] == 0 or any(part is not None and part.denominator != 1 for part in parts):
        return False
    value = exact(Apply("/", (above, below)))
    return value is not None and (value.denominator != 1 or abs(parts[1] or 0) == 1)


def _is_literal(expression: Expression) -> bool:
    if isinstance(expression, Apply) and expression.operation == "neg":
        return isinstance(expression.arguments[0], Number)
    return isinstance(expression, Number)


def _is_power_of_ten(expression: Expression) -> bool:
    if not (isinstance(expression, Apply) and expression.operation == "^"):
        return False
    return expression.arguments[0] == Number(Fraction(10)) and _is_literal(expression.arguments[1])


def exact(expression: Expression) -> Fraction | None:
    """Its value if rational arithmetic alone finds it, else None. Raises UnreadableError for 1/0 and for what is too big."""
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Name):
        return None
    values = [exact(argument) for argument in expression.arguments]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return _applied(expression.operation, known)


def _applied(operation: str, values: list[Fraction]) -> Fraction | None:
    first, last = values[0], values[-1]
    match operation:
        case "+":
            result = first + last
        case "-":
            result = first - last
        case "*":
            result = first * last
        case "neg":
            result = -first
        case "abs":
            result = abs(first)
        case "/":
            if last == 0:
                raise UnreadableError("a division by zero")
            result = first / last
        case "^":
            return _power(first, last)
        case "!" if first.denominator == 1 and 0 <= first <= LARGEST_FACTORIAL:
            result = Fraction(factorial(int(first)))
        case "binom" if first.denominator == last.denominator == 1 and 0 <= last <= first <= LARGEST_FACTORIAL:
            result = Fraction(comb(int(first), int(last)))
        case "!" | "binom":
            raise UnreadableError("a factorial too big or of no natural number")
        case _:
            return None
    return _bounded(result)


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if base == 0 and exponent <= 0:
        raise UnreadableError("zero to a power that is not above zero")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * size > _MOST_BITS and abs(base) != 1:
        raise UnreadableError("a power too big")
    if exponent.denominator != 1:
        return None
    return _bounded(base ** (int(exponent) % 2 if abs(base) == 1 else int(exponent)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise UnreadableError("a number too big")
    return value
