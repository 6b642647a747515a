"""Records of programming contests, APPS's and LiveCodeBench's, as problems: a Python program or function to write.

Most of them want a program that reads standard input; a record that names a function (`fn_name`, `func_name`) wants that
function. Where the solution or the starter code has it as a method of a class `Solution`, the question asks for the plain
function and the answer gets a line that makes one. The answer is the first solution that is Python 3 and defines what is
asked; LiveCodeBench publishes none, so that its problems can be asked but not shown as examples.

LiveCodeBench packs its private tests as base64 of zlib of a pickle of a text that is JSON. Loading a pickle can run code, so
none is loaded: its opcodes are walked, and a record whose pickle holds anything but one text is put aside. APPS writes a
function's result as a list of one; where all its results are such lists, what is in them is expected. Not covered:
problems with several right outputs, which their authors judge by programs of their own.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import pickletools
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sapience.problems.code_layouts import text_of, without_empty_lines
from sapience.problems.problem import Problem, StreamCase, TestCase
from sapience.problems.python_asserts import equal_case
from sapience.problems.python_literals import Unreadable, is_plain, is_unicode, parsed

Record = Mapping[str, Any]
UNPACKED = 1 << 26
"""Bytes of unpacked tests; more are refused before they fill the memory."""
_PICKLE_BEGINS = (b"\x80", b"V", b"X")
"""PROTO, or the text's own opcode in the protocols 0 and 1; JSON begins with none of them."""
_ONE_TEXT = re.compile(
    "(PROTO )?(FRAME )?(UNICODE|SHORT_BINUNICODE|BINUNICODE8?) ((PUT|BINPUT|LONG_BINPUT|MEMOIZE) )?STOP"
)
"""All opcodes that the pickle of a text has, in any protocol; none of them imports or calls."""


def apps(record: Record, family: str) -> Problem:
    """A record of APPS. Raises ValueError with the reason where it is none or has no test."""
    description = text_of(record, "question").strip()
    tests = _object(record, "input_output")
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("'input_output' has no 'inputs' and 'outputs' of one length")
    if not inputs:
        raise ValueError("no tests")
    solutions = _solutions(record)
    name, starter = tests.get("fn_name"), record.get("starter_code") or ""
    if name is None:
        streams = tuple(StreamCase(_stream(i), _stream(o)) for i, o in zip(inputs, outputs, strict=True))
        return _program(family, description, _first_program(solutions), streams)
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise ValueError("a test of a function has no list of arguments")
    cases = tuple(equal_case(tuple(i), o) for i, o in zip(inputs, outputs, strict=True))
    return _function(family, description, name, starter, solutions, cases)


def livecodebench(record: Record, family: str) -> Problem:
    """A record of LiveCodeBench. Raises ValueError with the reason where it is none or its tests cannot be read."""
    description = text_of(record, "question_content").strip()
    tests = [*_tests(record, "public_test_cases"), *_tests(record, "private_test_cases")]
    if not tests:
        raise ValueError("no tests")
    kinds = {test.get("testtype", "stdin") for test in tests}
    if kinds == {"stdin"}:
        streams = tuple(StreamCase(_stream(test.get("input")), _stream(test.get("output"))) for test in tests)
        return _program(family, description, "", streams)
    if kinds != {"functional"}:
        raise ValueError(f"tests of unknown kind: {', '.join(sorted(map(str, kinds)))[:80]}")
    name = _object(record, "metadata").get("func_name") if record.get("metadata") else None
    cases = tuple(equal_case(_lines(test.get("input")), _json(test.get("output"), "output")) for test in tests)
    return _function(family, description, name, record.get("starter_code") or "", [], cases)


def _program(family: str, description: str, solution: str, tests: tuple[StreamCase, ...]) -> Problem:
    question = (
        "Write a Python program that reads standard input and writes the answer to standard output.\n\n" + description
    )
    return Problem(family, "code", question, solution, solution, tests=tests)


def _function(
    family: str, description: str, name: Any, starter: Any, solutions: Sequence[str], tests: tuple[TestCase, ...]
) -> Problem:
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError("no name of the function that is tested")
    if not isinstance(starter, str):
        raise ValueError("'starter_code' is no text")
    if not all(is_plain([*test.args, test.returns]) for test in tests):
        raise ValueError("a test holds more than plain values, or is too large")
    definition = _definition(starter, name)
    called = f"{name}({definition})" if definition is not None else name
    question = f"Write the Python function `{called}`.\n\n{description}"
    answer = next((made for source in solutions if (made := _plain_function(source, name))), "")
    return Problem(family, "code", question, answer, answer, entry_point=name, tests=tests)


def _definition(starter: str, name: str) -> str | None:
    """Parameters and result that the starter code gives a function, `self` aside; None where it has none."""
    lines = starter.replace("\r\n", "\n").rstrip().split("\n")
    while lines and lines[-1].strip().startswith(("#", '"""')):
        lines.pop()
    indent = " " * (len(lines[-1]) - len(lines[-1].lstrip()) + 4) if lines else ""
    try:
        tree = parsed("\n".join([*lines, f"{indent}pass"]))
    except Unreadable:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            if node.args.args and node.args.args[0].arg == "self":
                del node.args.args[0]
            return ast.unparse(node.args)
    return None


def _plain_function(source: str, name: str) -> str:
    """The source with `name` as a function at its top; empty where it has none."""
    try:
        body = parsed(source).body
        if any(isinstance(node, ast.FunctionDef) and node.name == name for node in body):
            return without_empty_lines(source)
        classes = (node for node in body if isinstance(node, ast.ClassDef) and node.name == "Solution")
        methods = [inner for node in classes for inner in node.body if isinstance(inner, ast.FunctionDef)]
        if name in [method.name for method in methods]:
            return without_empty_lines(f"{source}\n{name} = Solution().{name}")
    except ValueError:
        pass
    return ""


def _first_program(solutions: Sequence[str]) -> str:
    """The first that is Python 3; empty where none is."""
    for source in solutions:
        try:
            parsed(source)
            return without_empty_lines(source)
        except ValueError:
            continue
    return ""


def _solutions(record: Record) -> list[str]:
    """Raises ValueError where what is there is no list of texts; sets for evaluation may have none."""
    given = record.get("solutions")
    if given in (None, "", []):
        return []
    found = _json(given, "solutions") if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(source, str) for source in found):
        raise ValueError("'solutions' is no list of texts")
    return [source.replace("\r\n", "\n") for source in found]


def _tests(record: Record, key: str) -> list[dict[str, Any]]:
    """Raises ValueError for tests that cannot be read."""
    given = record.get(key)
    if given in (None, ""):
        return []
    found = given
    if isinstance(given, str):
        found = _json(given, key) if given.lstrip().startswith("[") else _json(_unpacked(given, key), key)
    if not isinstance(found, list) or not all(isinstance(test, dict) for test in found):
        raise ValueError(f"'{key}' is no list of tests")
    return found


def _unpacked(text: str, key: str) -> str:
    """The text inside base64, zlib and, where there is one, a pickle. Raises ValueError."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text.encode(), validate=True), UNPACKED)
    except (binascii.Error, ValueError, zlib.error):
        raise ValueError(f"'{key}' is neither JSON nor base64 of zlib") from None
    if unpacker.unconsumed_tail:
        raise ValueError(f"'{key}' unpacks to more than {UNPACKED} bytes")
    if not unpacker.eof:
        raise ValueError(f"'{key}' breaks off")
    if data.startswith(_PICKLE_BEGINS):
        return _pickled_text(data, key)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"'{key}' is not UTF-8") from None


def _pickled_text(data: bytes, key: str) -> str:
    """The text that the pickle consists of, by walking its opcodes. Raises ValueError for any other pickle."""
    try:
        opcodes = list(islice(pickletools.genops(data), 5))  # the pickle of a text has no more
    except ValueError:
        raise ValueError(f"'{key}' is a pickle that breaks off or is damaged") from None
    names = " ".join(opcode.name for opcode, _, _ in opcodes)
    if not _ONE_TEXT.fullmatch(names):
        raise ValueError(f"'{key}' is a pickle of other things than one text ({names}), which could run code")
    return next(argument for _, argument, _ in opcodes if isinstance(argument, str))


def _object(record: Record, key: str) -> dict[str, Any]:
    given = record.get(key)
    found = _json(given, key) if isinstance(given, str) else given
    if not isinstance(found, dict):
        raise ValueError(f"'{key}' is no JSON object")
    return found


def _lines(text: Any) -> tuple[Any, ...]:
    """Arguments, one JSON value a line."""
    if not isinstance(text, str):
        raise ValueError("'input' of a test is no text")
    return tuple(_json(line, "input") for line in text.split("\n") if line.strip())


def _json(text: Any, key: str) -> Any:
    """Raises ValueError for what is no JSON, numbers that are none included."""
    if not isinstance(text, str):
        raise ValueError(f"'{key}' is no text")
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise ValueError(f"'{key}' is not JSON") from None


def _refused(name: str) -> Any:
    raise ValueError(name)


def _stream(given: Any) -> str:
    """What a program reads or writes; some records have it as a list of lines."""
    if isinstance(given, list) and all(isinstance(line, str) for line in given):
        given = "\n".join(given)
    if not isinstance(given, str):
        raise ValueError("input or output of a test is no text")
    if not is_unicode(given):
        raise ValueError("half of a surrogate pair in a test")
    return given
