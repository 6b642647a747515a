"""Is this value the expected one?

Values are built of None, bool, int, float, str, list, dict, tuple and set. As strict as a careful reader: types count, so
that true is not 1, "1" is not 1, 1.0 is not 1 and a tuple is no list. The exceptions: where a float is expected, a number
within `FLOAT_TOLERANCE` (relative, and absolute near zero) will do, also a whole one; where a test names a tolerance, any
number within it, which with a tolerance of zero is what Python calls equal.

Answers leave a sandbox as JSON, in which an object is never a dictionary but says what kind of value it holds:
{"t": […]} a tuple, {"s": […]} a set, {"d": [[key, value], …]} a dictionary.
"""

from __future__ import annotations

import math
from typing import Any

FLOAT_TOLERANCE = 1e-9
_DEEPEST = 100


class NotPlain(ValueError):
    """A value of another kind, or JSON that stands for none."""


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is of the kinds above alone, finite, and not too deep to compare."""
    if depth > _DEEPEST:
        return False
    if value is None or type(value) in (bool, int, str):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) in (list, tuple, set):
        return all(is_plain(item, depth + 1) for item in value)
    if type(value) is dict:
        return all(is_plain(part, depth + 1) for pair in value.items() for part in pair)
    return False


def decoded(told: Any, depth: int = 0) -> Any:
    """The value that a runner told as JSON. Raises NotPlain where it told none."""
    if depth > _DEEPEST:
        raise NotPlain("nested too deep")
    if type(told) is list:
        return [decoded(item, depth + 1) for item in told]
    if type(told) is not dict:
        return told
    if len(told) != 1:
        raise NotPlain("an object of no kind")
    [(kind, items)] = told.items()
    if kind not in ("t", "s", "d") or type(items) is not list:
        raise NotPlain("an object of no kind")
    values = [decoded(item, depth + 1) for item in items]
    try:
        if kind == "d":
            return dict(values)
        return tuple(values) if kind == "t" else set(values)
    except (TypeError, ValueError):
        raise NotPlain("a set or dictionary of what cannot be in one") from None


def same(answer: Any, expected: Any, tolerance: float | None = None, depth: int = 0) -> bool:
    """`expected` satisfies `is_plain`; `answer` is whatever was decoded."""
    if depth > _DEEPEST:
        return False
    numbers = (int, float) if tolerance is None else (int, float, bool)
    if type(answer) in numbers and type(expected) in numbers:
        return _close(answer, expected, tolerance)
    if type(answer) is not type(expected):
        return False
    if type(expected) in (list, tuple):
        pairs = zip(answer, expected, strict=False)
        return len(answer) == len(expected) and all(same(a, e, tolerance, depth + 1) for a, e in pairs)
    if type(expected) is set:
        return bool(answer == expected and sorted(map(_kind, answer)) == sorted(map(_kind, expected)))
    if type(expected) is dict:
        return answer.keys() == expected.keys() and all(
            same(answer[key], expected[key], tolerance, depth + 1) for key in expected
        )
    return bool(answer == expected)


def _close(answer: float, expected: float, tolerance: float | None) -> bool:
    if type(expected) is not float and type(answer) is not float:
        return abs(answer - expected) <= (tolerance or 0)
    if type(expected) is int and tolerance is None:
        return False
    allowed = FLOAT_TOLERANCE if tolerance is None else tolerance
    try:
        return math.isclose(answer, expected, rel_tol=allowed, abs_tol=allowed)
    except OverflowError:
        return False


def _kind(value: Any) -> str:
    """Tells true from 1 in a set, which Python takes for the same."""
    return "number" if type(value) in (int, float) else type(value).__name__
