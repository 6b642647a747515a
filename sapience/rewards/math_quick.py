"""Compares two answers without computer algebra, where numbers and structure suffice; that is most of the time.

A right answer that is a number written out (7, 3/4, 1.5) wants a number written out: `12*34`, `816/2` and `2^{10}`
restate questions whose answers are 408 and 1024, and no model shall be paid for that. So such answers never need
algebra, whatever the other side says.
"""

from __future__ import annotations

from typing import Literal

from sapience.rewards.math_comparison import same
from sapience.rewards.math_expression import Expression, exact, is_plain
from sapience.rewards.math_forms import Form, Relation


class AlgebraNeededError(Exception):
    """Numbers and structure alone do not decide."""


def quick_same(right: Form, given: Form) -> bool | Literal["algebra"]:
    """Whether the two are the same, or that only algebra can say."""
    try:
        return same(right, given, quick_same_value, _unknown_relation)
    except AlgebraNeededError:
        return "algebra"


def quick_same_value(right: Expression, given: Expression) -> bool:
    """Raises AlgebraNeededError."""
    if right == given:
        return True
    if is_plain(right) and not is_plain(given):
        return False
    value, other = exact(right), exact(given)
    if value is None or other is None:
        raise AlgebraNeededError
    return value == other


def _unknown_relation(right: Relation, given: Relation) -> bool:
    raise AlgebraNeededError
