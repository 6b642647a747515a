"""Asserts of a test file as test cases, read from the syntax tree: nothing of it is executed.

    assert candidate([1, 2], 3) == 5          abs(candidate(1.5) - 0.5) < 1e-6        round(f(2), 2) == 1.41
    assert candidate("") is None              math.isclose(f(2), 1.4142, rel_tol=0.001)
    assert not f(7)                           for n in range(3): assert f(n) == n + 1

Names count with the value they were given before, loops over what is written out are unrolled, keyword arguments find
their place by the function's signature. A bare `assert f(x)` expects True and `not f(x)` False, which is what authors of
such tests mean. A function is taken not to change its arguments. Whatever cannot be read is counted with its reason,
and names whose values it might have changed are known no more. Not covered: methods, exceptions that a test expects,
random inputs, asserts behind conditions.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapience.problems.problem import TestCase
from sapience.problems.python_literals import LiteralReader, Unreadable, copied, is_plain, parsed, shown

MOST_STATEMENTS = 20_000
"""Statements that are read, unrolled loops included."""


@dataclass(frozen=True, slots=True)
class ReadTests:
    """What became of the asserts of a test file."""

    cases: tuple[TestCase, ...]
    unread: tuple[str, ...]
    """Why an assert is no case, one for each; a loop that cannot be unrolled counts once."""


def read_asserts(sources: Sequence[str], function: str, parameters: Sequence[str] = ()) -> ReadTests:
    """Cases of all asserts in `sources`, one after the other, that call `function`.

    `function` is the name under which the tests call it, `parameters` the names of its positional parameters.
    """
    reader = _Reader(function, parameters)
    for source in sources:
        try:
            body = parsed(source.strip()).body
        except Unreadable as error:
            reader.unread.append(str(error))
            continue
        reader.read(body)
    return ReadTests(tuple(reader.cases), tuple(reader.unread))


def read_check(source: str, parameters: Sequence[str] = ()) -> ReadTests:
    """Cases of a HumanEval test: a function `check` whose argument is the function to be tested.

    Raises Unreadable where there is no such function.
    """
    module = parsed(source)
    checks = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise Unreadable("'test' has no function check(candidate)")
    reader = _Reader(checks[0].args.args[0].arg, parameters)
    reader.read([node for node in module.body if node is not checks[0]])
    reader.read(checks[0].body)
    return ReadTests(tuple(reader.cases), tuple(reader.unread))


def called_functions(sources: Sequence[str]) -> list[str]:
    """Names of all functions that asserts call, the most frequent first; unreadable sources call none."""
    names: Counter[str] = Counter()
    for source in sources:
        try:
            tree = parsed(source.strip())
        except Unreadable:
            continue
        asserts = (node for node in ast.walk(tree) if isinstance(node, ast.Assert))
        calls = (node.func for made in asserts for node in ast.walk(made.test) if isinstance(node, ast.Call))
        names.update(call.id for call in calls if isinstance(call, ast.Name))
    return [name for name, _ in names.most_common()]


def equal_case(args: tuple[Any, ...], returns: Any) -> TestCase:
    """A case of Python's `==`, to which 6.0 is as good as 6: a tolerance of zero where whole numbers or truths are expected.

    Without a tolerance floats may be off by their last digits, which is kinder than `==` and leaves the types alone.
    """
    return TestCase(args, returns, 0.0 if _has_whole_number(returns) else None)


def _has_whole_number(value: Any) -> bool:
    if type(value) in (list, tuple, set):
        return any(map(_has_whole_number, value))
    if type(value) is dict:
        return any(map(_has_whole_number, value.values()))
    return type(value) in (int, bool)


class _Reader:
    """Goes through statements in order, with the names known so far."""

    def __init__(self, function: str, parameters: Sequence[str]) -> None:
        self.function, self.parameters = function, list(parameters)
        self.literals = LiteralReader()
        self.names = self.literals.names
        self.cases: list[TestCase] = []
        self.unread: list[str] = []
        self.left = MOST_STATEMENTS

    def read(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.left -= 1
            if self.left == 0:
                self.unread.append(f"more than {MOST_STATEMENTS} statements")
            if self.left <= 0:
                return
            try:
                self._statement(statement)
            except Unreadable as error:
                if any(isinstance(node, ast.Assert) for node in ast.walk(statement)):
                    self.unread.append(str(error))
                self._forget(statement)

    def _statement(self, node: ast.stmt) -> None:
        """Raises Unreadable."""
        if isinstance(node, ast.Assert):
            if not isinstance(node.test, ast.Constant):
                self.cases.append(self._case(node.test))
        elif isinstance(node, ast.Assign):
            value = self.literals.value(node.value)
            for target in node.targets:
                self._bind(target, value)
        elif isinstance(node, ast.For) and not node.orelse:
            self._loop(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                self.names.pop(alias.asname or alias.name, None)
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            raise Unreadable(f"{shown(node)} has to be executed")

    def _loop(self, node: ast.For) -> None:
        """Unrolled; a loop of which anything cannot be read gives no case at all."""
        before = len(self.cases), len(self.unread)
        for item in self.literals.items(node.iter):
            self._bind(node.target, item)
            self.read(node.body)
            if len(self.unread) > before[1] or self.left <= 0 or not set(_targets(node.target)) <= set(self.names):
                reason = self.unread[before[1]] if len(self.unread) > before[1] else "its body changes its variable"
                del self.cases[before[0] :], self.unread[before[1] :]
                raise Unreadable(f"a loop that cannot be unrolled: {reason}")

    def _bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = copied(value)
        elif (
            isinstance(target, ast.Tuple | ast.List) and type(value) in (list, tuple) and len(value) == len(target.elts)
        ):
            for part, item in zip(target.elts, value, strict=True):
                self._bind(part, item)
        else:
            raise Unreadable(f"{shown(target)} is given a value that has to be executed")

    def _forget(self, statement: ast.stmt) -> None:
        """What an unread statement binds, and whatever it may have changed through another name."""
        inner = list(ast.walk(statement))
        bound = {node.id for node in inner if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        bound |= {node.name for node in inner if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for name in list(self.names):
            if name in bound or isinstance(self.names[name], list | dict | set | tuple):
                del self.names[name]

    def _case(self, test: ast.expr) -> TestCase:
        """Raises Unreadable."""
        if self._is_call(test):
            return TestCase(self._arguments(test), True)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and self._is_call(test.operand):
            return TestCase(self._arguments(test.operand), False)
        if isinstance(test, ast.Call):
            return self._close(test)
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._comparison(test.left, test.ops[0], test.comparators[0])
        raise Unreadable(f"{shown(test)} is no comparison with a value")

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> TestCase:
        if isinstance(sign, ast.Lt | ast.LtE):
            return self._difference(left, right)
        if isinstance(sign, ast.Gt | ast.GtE):
            return self._difference(right, left)
        if not isinstance(sign, ast.Eq | ast.Is):
            raise Unreadable(f"{shown(left)} is compared otherwise than for equality")
        call, literal = (left, right) if self._calls_inside(left) else (right, left)
        if self._is_call(call):
            returns = self.literals.value(literal)
            if isinstance(sign, ast.Is) and returns is not None and not isinstance(returns, bool):
                raise Unreadable(f"{shown(literal)} is compared by identity")
            arguments = self._arguments(call)
            return equal_case(arguments, returns) if isinstance(sign, ast.Eq) else TestCase(arguments, returns)
        name, inner = _named_call(call)
        if name == "round" and inner and self._is_call(inner[0]):
            digits = self.literals.value(inner[1]) if len(inner) == 2 else 0
            returns = _number(self.literals.value(literal))
            if type(digits) is not int or abs(digits) > 15:
                raise Unreadable(f"{shown(call)} rounds oddly")
            return _near(self._arguments(inner[0]), returns, 0.5 * 10.0**-digits)
        other, content = _named_call(literal)
        if name in ("list", "tuple") and name == other and len(inner) == len(content) == 1 and self._is_call(inner[0]):
            # both sides are made alike, so the inner one says what the function gives
            returns = self.literals.value(content[0])
            if type(returns) in (list, tuple):
                return equal_case(self._arguments(inner[0]), returns)
        raise Unreadable(f"{shown(call)} has to be executed")

    def _difference(self, node: ast.expr, limit: ast.expr) -> TestCase:
        """`abs(call - x) < limit`."""
        name, inner = _named_call(node)
        if name not in ("abs", "fabs") or len(inner) != 1:
            raise Unreadable(f"{shown(node)} is compared otherwise than for equality")
        minus = inner[0]
        if not (isinstance(minus, ast.BinOp) and isinstance(minus.op, ast.Sub)):
            raise Unreadable(f"{shown(node)} is no difference")
        call, literal = (minus.left, minus.right) if self._is_call(minus.left) else (minus.right, minus.left)
        if not self._is_call(call):
            raise Unreadable(f"{shown(node)} has to be executed")
        width = _number(self.literals.value(limit))
        return _near(self._arguments(call), _number(self.literals.value(literal)), width)

    def _close(self, test: ast.Call) -> TestCase:
        """`math.isclose(call, x, rel_tol=…, abs_tol=…)`."""
        function = test.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        widths = {keyword.arg: _number(self.literals.value(keyword.value)) for keyword in test.keywords}
        if name != "isclose" or len(test.args) != 2 or not set(widths) <= {"rel_tol", "abs_tol"}:
            raise Unreadable(f"{shown(test)} has to be executed")
        first, second = test.args
        call, literal = (first, second) if self._is_call(first) else (second, first)
        if not self._is_call(call):
            raise Unreadable(f"{shown(test)} has to be executed")
        returns = _number(self.literals.value(literal))
        width = max(widths.get("rel_tol", 1e-9) * abs(returns), widths.get("abs_tol", 0.0))
        return _near(self._arguments(call), returns, width)

    def _is_call(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == self.function

    def _calls_inside(self, node: ast.expr) -> bool:
        return any(isinstance(inner, ast.expr) and self._is_call(inner) for inner in ast.walk(node))

    def _arguments(self, node: ast.expr) -> tuple[Any, ...]:
        """Raises Unreadable."""
        assert isinstance(node, ast.Call)
        elements = ast.Tuple([*node.args], ast.Load())
        given = list(self.literals.value(elements)) if node.args else []
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        for parameter in self.parameters[len(given) :]:
            if not named or parameter not in named:
                break
            given.append(self.literals.value(named.pop(parameter)))
        if named:
            raise Unreadable(f"{shown(node)} names arguments that have no place")
        return tuple(given)


def _named_call(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """Name and arguments of a call without keywords (a method's or module's function by its last name)."""
    if not isinstance(node, ast.Call) or node.keywords:
        return "", []
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name, node.args


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise Unreadable(f"{str(value)[:60]!r} is no number")
    try:
        return float(value)
    except OverflowError:
        raise Unreadable("a number that is too large") from None


def _near(args: tuple[Any, ...], returns: float, width: float) -> TestCase:
    """A case whose answer may lie `width` to either side; a case's tolerance is relative above 1, hence the division."""
    tolerance = width / max(1.0, abs(returns))
    if not is_plain(tolerance):
        raise Unreadable("a tolerance that is no number")
    return TestCase(args, returns, tolerance)


def _targets(node: ast.expr) -> list[str]:
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
