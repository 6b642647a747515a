r"""Whether two expressions are equal, by computer algebra. Imported by the worker process only: it loads sympy.

Two witnesses have to agree. First both are evaluated at a few fixed points, to so many digits that nothing written down in
either can hide below them: `2\sqrt{5}+10^{-50}` is not `2\sqrt{5}`, nor is its decimal fraction to a hundred places. Then
math-verify has to find them equal. Either alone would do harm: its own comparison stops at 15 digits, and a number
knows nothing of where an expression is defined.

Every number arrives as an exact fraction, so no comparison is approximate: 0.333 is not 1/3 and 3.14 is not `\pi`.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy  # type: ignore[import-untyped]
from math_verify import verify  # type: ignore[import-untyped]

from sapience.rewards.math_comparison import same
from sapience.rewards.math_expression import Apply, Expression, Name, Number, exact
from sapience.rewards.math_forms import Form, Relation, expressions_of
from sapience.rewards.math_quick import AlgebraNeededError, quick_same_value
from sapience.rewards.math_text import UnreadableError

_FEWEST_DIGITS, _MOST_DIGITS = 60, 20_000
_LARGEST_SIZE = 4000
"""Of what stands in an exponent."""
_SLACK_DIGITS = 20
"""Of the digits that are asked for, so many may differ."""
_NAME_VALUE = 40
"""No name has a value above it at any of the points."""
_POINTS = ((7, 5), (13, 11), (29, 17), (-19, 23), (-31, 37))
"""(above, below) of the first name's value at each point; the others are spread from there."""
_LARGEST_EXPONENT = 1000
_LARGEST_SYMBOLIC_EXPONENT = 100

_FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "sqrt": sympy.sqrt,
    "root": lambda a, n: sympy.real_root(a, n) if a.is_number and a.is_negative else sympy.root(a, n),
    "!": sympy.factorial,
    "binom": sympy.binomial,
    "abs": sympy.Abs,
    "deg": lambda a: a * sympy.pi / 180,
    "logb": lambda base, a: sympy.log(a, base),
    "lg": lambda a: sympy.log(a, 10),
    "ln": sympy.log,
    "log": lambda a: sympy.log(a) / sympy.log(sympy.Symbol("base of log", positive=True)),
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    **{name: getattr(sympy, name) for name in "sin cos tan cot sec csc sinh cosh tanh exp".split()},
}
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}


def algebra_same(right: Form, given: Form) -> bool:
    """Whether the two answers are the same. Raises UnreadableError for what is too big to compute with."""
    return same(right, given, _same_value, _same_relation)


def check(form: Form) -> None:
    """Raises UnreadableError where a right answer cannot be computed with."""
    for expression in expressions_of(form):
        built(expression)
        digits_for(expression, expression)


def _same_value(right: Expression, given: Expression) -> bool:
    try:
        return quick_same_value(right, given)
    except AlgebraNeededError:
        pass
    first, second = built(right), built(given)
    if not second.free_symbols <= first.free_symbols or not _agree(first, second, digits_for(right, given)):
        return False
    return first == second or bool(verify(first, second, timeout_seconds=None, raise_on_error=False))


def _same_relation(right: Relation, given: Relation) -> bool:
    """Two relations are the same where their differences are one another's constant multiple, with the fitting sign."""
    first, second = (built(one.left) - built(one.right) for one in (right, given))
    if first.free_symbols != second.free_symbols or not first.free_symbols:
        return False
    digits = digits_for(right.left, right.right, given.left, given.right)
    pairs = zip(_values(first, first, digits), _values(second, first, digits), strict=True)
    ratios = [other / one for one, other in pairs if one and other]
    if not ratios:
        return False
    factor = sympy.nsimplify(ratios[0], rational=True, tolerance=sympy.Rational(1, 10**20))
    if factor.is_zero or not factor.is_real or (right.sign in "<≤" and not factor.is_positive):
        return False
    return _agree(factor * first, second, digits) and bool(verify(factor * first, second, timeout_seconds=None))


def built(expression: Expression) -> sympy.Expr:
    """The same as sympy has it. Names are real numbers. Raises UnreadableError."""
    if isinstance(expression, Number):
        return sympy.Rational(expression.value.numerator, expression.value.denominator)
    if isinstance(expression, Name):
        return _CONSTANTS.get(expression.name) or sympy.Symbol(expression.name, real=True)
    if expression.operation == "^":
        return _power(expression)
    result = _FUNCTIONS[expression.operation](*(built(argument) for argument in expression.arguments))
    return _finite(result)


def _power(expression: Apply) -> sympy.Expr:
    base, exponent = expression.arguments
    value, size = exact(base), exact(exponent)
    limit = _LARGEST_EXPONENT if value is not None or not built(base).free_symbols else _LARGEST_SYMBOLIC_EXPONENT
    if value is None and size is not None and abs(size) > limit:
        raise UnreadableError("a power too big")
    return _finite(built(base) ** built(exponent))


def _finite(value: sympy.Expr) -> sympy.Expr:
    if value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        raise UnreadableError("a value that is not finite")
    return value


def digits_for(*expressions: Expression) -> int:
    """How many digits tell any two of the expressions apart, by all that is written in them. Raises UnreadableError."""
    digits = _FEWEST_DIGITS + 2 * sum(map(_fineness, expressions))
    if digits > _MOST_DIGITS:
        raise UnreadableError("numbers too fine to compare")
    return int(digits)


def _fineness(expression: Expression) -> float:
    """The decimal places that an expression may need to differ from zero: those of its numbers, times its powers."""
    value = exact(expression)
    if value is not None:
        return 0.302 * (value.numerator.bit_length() + value.denominator.bit_length())
    if not isinstance(expression, Apply):
        return 2.0
    parts = [_fineness(argument) for argument in expression.arguments]
    if expression.operation == "^":
        return (parts[0] + 1) * max(1.0, _rough_size(expression.arguments[1])) + parts[1]
    if expression.operation in ("exp", "sinh", "cosh", "!"):
        return parts[0] + 2 * _rough_size(expression.arguments[0])
    return sum(parts) + 1


def _rough_size(expression: Expression) -> float:
    """About the greatest size at any of the points; what is above `_LARGEST_SIZE` is refused."""
    built_one = built(expression)
    size = abs(built_one.subs(dict.fromkeys(built_one.free_symbols, _NAME_VALUE)).evalf(15))
    if not (size.is_number and size < _LARGEST_SIZE):
        raise UnreadableError("a power too big")
    return float(size)


def _agree(first: sympy.Expr, second: sympy.Expr, digits: int) -> bool:
    """Whether both have the same value wherever either has one, at two points at least where there are names."""
    pairs = list(zip(_values(first, first, digits), _values(second, first, digits), strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        return False
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    tolerance = sympy.Rational(1, 10 ** (digits - _SLACK_DIGITS))
    close = (one == other or abs(one - other) <= tolerance * (abs(one) + abs(other)) for one, other in known)
    return len(known) >= min(2, len(pairs)) and all(close)


def _values(expression: sympy.Expr, names_of: sympy.Expr, digits: int) -> list[sympy.Expr | None]:
    """Of an expression at each point; None where it has none. `names_of` says which names there are."""
    symbols = sorted(names_of.free_symbols, key=str)
    if not symbols:
        return [_value(expression, digits)]
    values = []
    for above, below in _POINTS:
        point = {symbol: sympy.Rational(above + 4 * place, below + 2 * place) for place, symbol in enumerate(symbols)}
        point = {symbol: abs(value) if symbol.is_positive else value for symbol, value in point.items()}
        values.append(_value(expression.subs(point), digits))
    return values


def _value(expression: sympy.Expr, digits: int) -> sympy.Expr | None:
    value = expression.evalf(digits, maxn=4 * digits)
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    real = all(part.is_Float or part.is_Rational for part in value.as_real_imag())
    return value if real else None
