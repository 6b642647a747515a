"""HumanEval's and MBPP's records as problems: a Python function to write, with hidden tests.

The question is what a chat model is asked: the language, the function's name and signature, and the description. HumanEval's
prompt is the beginning of the function and says all of that. MBPP's text names no function; like its authors the question
adds the name and one example call, with its result where further tests stay hidden. The answer is the canonical solution
as a whole program, without the docstring that repeats the question and without empty lines, which end an answer in the
plain format.

Tests are read from the syntax tree (`python_asserts`). A problem some of whose asserts cannot be read keeps the others;
one without any is put aside. MBPP's `challenge_test_list` is not part of its measure and not read.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from typing import Any

from sapience.problems.problem import Problem, Split
from sapience.problems.python_asserts import ReadTests, called_functions, read_asserts, read_check
from sapience.problems.python_literals import Unreadable, parsed

Record = Mapping[str, Any]
_MBPP_TEST = range(11, 511)
_MBPP_VALIDATION = range(511, 601)
_MBPP_TRAIN = range(601, 975)


def humaneval(record: Record, family: str) -> Problem:
    """A function's beginning to complete. Raises ValueError with the reason where it is none, or no test can be read."""
    prompt, solution = text_of(record, "prompt"), text_of(record, "canonical_solution")
    name = text_of(record, "entry_point").strip()
    function = function_in(prompt + solution, name)
    read = _with_cases(read_check(text_of(record, "test"), positional(function)))
    question = f"Write the Python function `{name}` that begins like this:\n\n```python\n{prompt.strip()}\n```"
    answer = without_empty_lines(_without_docstring(prompt + solution, function))
    return Problem(family, "code", question, answer, answer, entry_point=name, tests=read.cases)


def mbpp(record: Record, family: str) -> Problem:
    """A short task. Raises ValueError with the reason where it is none, or no test can be read."""
    description = text_of(record, "text" if "text" in record else "prompt").strip()
    code = text_of(record, "code")
    asserts = texts_of(record, "test_list")
    setup = [*texts_of(record, "test_imports"), *filter(None, [record.get("test_setup_code") or ""])]
    if not all(isinstance(part, str) for part in setup):
        raise ValueError("'test_setup_code' is no text")
    name = _tested(code, asserts)
    function = function_in(code, name)
    read = _with_cases(read_asserts([*setup, *asserts], name, positional(function)))
    signature = f"{name}({ast.unparse(function.args)})"
    question = f"{description}\n\nWrite it as the Python function `{signature}`. {_example(name, read)}"
    answer = without_empty_lines(code)
    return Problem(family, "code", question, answer, answer, entry_point=name, tests=read.cases)


def mbpp_split(record: Record) -> Split | None:
    """By the task's number, as published: 11 to 510 test, 511 to 600 validation, 601 to 974 train.

    The first ten are meant for prompts, which is training here. None without such a number.
    """
    number = record.get("task_id")
    if type(number) is not int or number not in range(1, 975):
        return None
    if number in _MBPP_TEST:
        return "test"
    return "validation" if number in _MBPP_VALIDATION else "train"


def text_of(record: Record, key: str) -> str:
    """A text that is not empty, with plain line ends. Raises ValueError."""
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{key}' is missing or empty")
    return value.replace("\r\n", "\n").replace("\r", "\n")


def texts_of(record: Record, key: str) -> list[str]:
    """A list of texts, empty where there is none. Raises ValueError."""
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"'{key}' is no list of texts")
    return [item.replace("\r\n", "\n") for item in value]


def function_in(source: str, name: str) -> ast.FunctionDef:
    """The last function of that name at the top of Python source. Raises ValueError where there is none."""
    functions = [node for node in parsed(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not functions:
        raise ValueError(f"the solution defines no function '{name}'")
    return functions[-1]


def positional(function: ast.FunctionDef) -> list[str]:
    """Names of the parameters that may be given without a name, in order."""
    return [parameter.arg for parameter in (*function.args.posonlyargs, *function.args.args)]


def without_empty_lines(source: str) -> str:
    """Python source without lines that hold nothing, those inside of texts aside. Raises ValueError where it is none."""
    inside: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.start[0] < token.end[0]:
                inside.update(range(token.start[0], token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError) as error:
        raise ValueError(f"no Python: {error}") from None
    lines = enumerate(source.split("\n"), start=1)
    return "\n".join(
        line if number in inside else line.rstrip() for number, line in lines if number in inside or line.strip()
    )


def _without_docstring(source: str, function: ast.FunctionDef) -> str:
    """The docstring's lines are left out, where the function has more than it."""
    first = function.body[0]
    if len(function.body) < 2 or ast.get_docstring(function) is None or first.lineno == function.lineno:
        return source
    lines = source.split("\n")
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])


def _tested(code: str, asserts: list[str]) -> str:
    """The function that the asserts call. Raises ValueError."""
    if not asserts:
        raise ValueError("'test_list' is empty")
    defined = {node.name for node in parsed(code).body if isinstance(node, ast.FunctionDef)}
    called = called_functions(asserts)
    for name in called:
        if name in defined:
            return name
    raise ValueError(f"the tests call no function that 'code' defines (they call {', '.join(called[:4]) or 'none'})")


def _with_cases(read: ReadTests) -> ReadTests:
    if not read.cases:
        raise Unreadable(f"no test can be read: {read.unread[0] if read.unread else 'there is none'}")
    return read


def _example(name: str, read: ReadTests) -> str:
    """One call, with its result where it is not the only test."""
    first = read.cases[0]
    call = f"{name}({', '.join(map(repr, first.args))})"
    if len(read.cases) == 1:
        return f"It will be called like this: `{call}`."
    return f"For example, `{call}` returns `{first.returns!r}`."
