"""Values of Python expressions that are built of literals, read from the syntax tree; nothing of a record's is executed.

Beside literals of all kinds that a test may hold there are arithmetic on numbers, joining of texts and lists, names that
were given a value before, and a few calls whose result hangs on their arguments alone (`range(3)`, `str(x)`, `round(x, 2)`).
Depth, sizes and the work for one record are bounded, so that a hostile record costs little more than an honest one.
Not covered: comprehensions, attributes and subscripts, bytes and complex numbers.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

DEEPEST = 40
LONGEST = 100_000
"""Items of a list that is made, and bits of a whole number."""
MOST_WORK = 4_000_000
"""Items and letters that a reader makes in all."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Invert: operator.invert,
}  # fmt: skip
_CALLS: dict[str, Callable[..., Any]] = {
    "abs": abs, "dict": dict, "float": float, "int": int, "len": len, "list": list, "max": max, "min": min,
    "range": range, "round": round, "set": set, "sorted": sorted, "str": str, "tuple": tuple,
}  # fmt: skip


class Unreadable(ValueError):
    """Cannot be read without executing it; the message says what."""


def parsed(source: str) -> ast.Module:
    """The syntax tree of Python source. Raises Unreadable for what is none, or is nested too deeply."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text's odd escapes are its author's business
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"no Python: {getattr(error, 'msg', None) or type(error).__name__}") from None


def shown(node: ast.AST) -> str:
    """The beginning of an expression's source, for a reason."""
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError):
        return "…"
    return text if len(text) <= 60 else f"{text[:60]}…"


def is_plain(value: Any) -> bool:
    """Whether a value is what a test may hold (see `TestCase`): texts that UTF-8 can hold and finite numbers only, neither
    too deep nor too large."""
    return _size(value, MOST_WORK) is not None


def is_unicode(text: str) -> bool:
    """False where half of a surrogate pair stands alone, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def copied(value: Any) -> Any:
    """A plain value that shares no list, dictionary or set with another."""
    if type(value) in (list, tuple, set):
        return type(value)(copied(item) for item in value)
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return value


class LiteralReader:
    """Reads expressions with the names known so far."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self._left = MOST_WORK

    def value(self, node: ast.expr) -> Any:
        """The value of an expression, fresh at every call. Raises Unreadable."""
        value = self._guarded(node)
        if isinstance(value, range):
            raise Unreadable(f"{shown(node)} is more than plain values, or too large")
        return copied(value)

    def items(self, node: ast.expr) -> list[Any]:
        """What a loop over the expression goes through. Raises Unreadable."""
        value = self._guarded(node)
        if not isinstance(value, range | list | tuple | str | dict):
            raise Unreadable(f"a loop over {shown(node)}, which has no order")
        return list(value)

    def _guarded(self, node: ast.expr) -> Any:
        try:
            return self._value(node, 0)
        except Unreadable:
            raise
        except (TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
            raise Unreadable(f"{shown(node)} has no value ({error})") from None

    def _value(self, node: ast.expr, depth: int) -> Any:
        """May raise whatever the operators raise."""
        if depth > DEEPEST:
            raise Unreadable("nested too deeply")
        value = self._made(node, depth + 1)
        if isinstance(value, range):
            if len(value) > LONGEST:
                raise Unreadable(f"a range of more than {LONGEST}")
            return value
        size = _size(value, self._left)
        if size is None:
            raise Unreadable(f"{shown(node)} is more than plain values, or too large")
        self._left -= size
        return value

    def _made(self, node: ast.expr, depth: int) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            made = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
            return made(self._spread(node.elts, depth))
        if isinstance(node, ast.Dict):
            if None in node.keys:
                raise Unreadable("a dictionary unpacked into another")
            keys = [self._value(key, depth) for key in node.keys if key is not None]
            return dict(zip(keys, (self._value(item, depth) for item in node.values), strict=True))
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](self._value(node.operand, depth))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return _joined(type(node.op), self._value(node.left, depth), self._value(node.right, depth))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            name = node.func.id
            if name in _CALLS and name not in self.names:
                return _CALLS[name](*self._spread(node.args, depth))
        raise Unreadable(f"{shown(node)} is no literal")

    def _spread(self, nodes: Sequence[ast.expr], depth: int) -> list[Any]:
        """Values of a list's items or a call's arguments, starred ones spread out."""
        values: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                values += self._value(node.value, depth)
                if len(values) > LONGEST:
                    raise Unreadable(f"more than {LONGEST} items")
            else:
                values.append(self._value(node, depth))
        return values


def _size(value: Any, left: int, depth: int = 0) -> int | None:
    """Items, numbers and letters (ten count as one) of a plain value; None for another, and above `left`."""
    kind = type(value)
    size = 1
    if kind is int:
        return size if value.bit_length() <= LONGEST and left > 0 else None
    if kind is str:
        size += len(value) // 10
        return size if size <= left and is_unicode(value) else None
    if kind is float:
        return size if math.isfinite(value) and left > 0 else None
    if kind in (list, tuple, set, dict):
        parts = value if kind is not dict else (part for item in value.items() for part in item)
        for part in parts:
            inner = _size(part, left - size, depth + 1) if depth < DEEPEST else None
            if inner is None:
                return None
            size += inner
        return size if size <= left else None
    return size if (value is None or kind is bool) and left > 0 else None


def _joined(kind: type[ast.operator], left: Any, right: Any) -> Any:
    """Raises Unreadable before a number, text or list becomes too large."""
    whole = isinstance(left, int) and isinstance(right, int)
    if kind is ast.Pow and whole and max(left.bit_length(), 1) * abs(right) > LONGEST:
        raise Unreadable("a power that is too large")
    if kind is ast.Mult:
        if whole and left.bit_length() + right.bit_length() > LONGEST:
            raise Unreadable("a product that is too large")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and hasattr(other, "__len__") and one * len(other) > LONGEST:
                raise Unreadable("a repetition that is too long")
    if kind is ast.Add and hasattr(left, "__len__") and hasattr(right, "__len__") and len(left) + len(right) > LONGEST:
        raise Unreadable("joined to what is too long")
    if kind is ast.Mod and isinstance(left, str):
        raise Unreadable("a text that is put together with %")
    return _BINARY[kind](left, right)
