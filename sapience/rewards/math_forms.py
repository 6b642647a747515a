"""What kind of thing an answer is: a number with its unit, a pair, an interval, a set, a list, a matrix, an equation, a word.

Forms keep what makes answers differ: which brackets, in which order, which unit. `math_reading` makes them of text,
`math_comparison` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sapience.rewards.math_expression import Expression, names


@dataclass(frozen=True, slots=True)
class Scalar:
    """An expression with its unit; `%` counts as one, though it may not be left out."""

    expression: Expression
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Infinity:
    """`sign` is 1 or -1."""

    sign: int


@dataclass(frozen=True, slots=True)
class Word:
    """A name, a direction, the letter of a choice."""

    text: str


@dataclass(frozen=True, slots=True)
class Bracketed:
    """A point, a vector, an interval, a ratio (colons): the brackets and the order say which, and both count."""

    opening: str
    items: tuple[Form, ...]
    closing: str


@dataclass(frozen=True, slots=True)
class Several:
    """Answers in no order: a list with commas or `or`, a set in braces, a union of intervals."""

    kind: str
    """`list`, `set` or `union`."""
    items: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of forms; all rows are equally long."""

    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 5`, `x \\in [0, 1]`: the form and what it belongs to."""

    name: str
    form: Form


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality; `sign` is one of `= < ≤ ≠`. `defined` is the left side where that is a single name."""

    sign: str
    left: Expression
    right: Expression
    defined: str = ""


Form = Scalar | Infinity | Word | Bracketed | Several | Matrix | Named | Relation


def expressions_of(form: Form) -> tuple[Expression, ...]:
    """Every expression in a form, in order."""
    match form:
        case Scalar():
            return (form.expression,)
        case Relation():
            return form.left, form.right
        case Named():
            return expressions_of(form.form)
        case Bracketed() | Several():
            return tuple(one for item in form.items for one in expressions_of(item))
        case Matrix():
            return tuple(one for row in form.rows for item in row for one in expressions_of(item))
    return ()


def letters_of(form: Form) -> frozenset[str]:
    """Every name that occurs in the expressions of a form."""
    return frozenset().union(*(names(expression) for expression in expressions_of(form)))
