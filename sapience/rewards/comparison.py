"""Is this JSON value the expected one?

As strict as a careful reader: types count, so that true is not 1 and "1" is not 1. The one exception: where a float is
expected, a number within `FLOAT_TOLERANCE` (relative, and absolute near zero) will do, also a whole one.
"""

from __future__ import annotations

import math
from typing import Any

FLOAT_TOLERANCE = 1e-9
_DEEPEST = 100


def is_json(value: Any, depth: int = 0) -> bool:
    """Whether a value is built of JSON's types alone and not too deep to compare."""
    if depth > _DEEPEST:
        return False
    if value is None or type(value) in (bool, int, str):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(is_json(item, depth + 1) for item in value)
    if type(value) is dict:
        return all(type(key) is str and is_json(item, depth + 1) for key, item in value.items())
    return False


def same(answer: Any, expected: Any, depth: int = 0) -> bool:
    """`expected` satisfies `is_json`; `answer` is whatever a JSON parser made of an answer."""
    if type(expected) is float and type(answer) in (int, float):
        try:
            return math.isclose(answer, expected, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
        except OverflowError:
            return False
    if type(answer) is not type(expected) or depth > _DEEPEST:
        return False
    if type(expected) is list:
        pairs = zip(answer, expected, strict=False)
        return len(answer) == len(expected) and all(same(a, e, depth + 1) for a, e in pairs)
    if type(expected) is dict:
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key], depth + 1) for key in expected)
    return bool(answer == expected)
