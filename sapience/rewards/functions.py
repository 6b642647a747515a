"""A function in any language as a program: what is put beside its source, how arguments go in and answers come out.

Arguments are written as JSON on the program's standard input, and its last line is the answer as JSON; `drivers/` has, for
each language, the code that reads, calls and writes. Types are the submission's own, found by the compiler or by reflection,
so that a test needs no signature: `[1, 2]` may be a vector, a set or a tuple. Tuples, lists and sets are JSON lists, and a key
of a dictionary is a JSON name whatever its type; which of them an answer is, the expected value says (`fitted`).

C has arrays as a pointer followed by their length; a function that returns one writes its count where its last parameter
points. A function in Bash gets texts as its arguments and answers by what it writes: a number or text as it is, true and
false, a list as words on a line, a list of lists as lines, a dictionary as lines `key,value`, None as nothing. In C++ and
Java, a method of a class without arguments to its constructor will do (`Solution` in C++, any class in Java).

Not covered: nested arrays in C, exact whole numbers above 2^53 in JavaScript, lists of texts with blanks in Bash, classes
of the submission's own as arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sapience.problems.problem import Language
from sapience.rewards.outcome import DETAIL_LETTERS, Answer, Failure
from sapience.rewards.toolchains import Installed

_DRIVERS = Path(__file__).with_name("drivers")
_CPP = """
#include "driver.hpp"
#define main submission_main
#include "main.cpp"
#undef main
signed main() { return sapience_driver::answer(&ENTRY_POINT); }
"""
_C = """
#include "driver.hpp"
#define _Bool bool
extern "C" {
#include "declaration.h"
}
signed main() { return sapience_driver::answer(&::ENTRY_POINT); }
"""
_C_BUILD = """set -e
gcc -O2 -std=gnu17 -w -Dmain=submission_main -c main.c -o main.o -aux-info declarations
grep -E '^/[*] main\\.c:.*[*]/ .*[ *]ENTRY_POINT \\(' declarations | tail -n 1 > declaration.h
[ -s declaration.h ] || { echo 'defines no function ENTRY_POINT' >&2; exit 1; }
g++ -O1 -std=gnu++17 -w -o program driver.cpp main.o -lm
rm -f main.o declarations declaration.h
"""
_RUST = """
mod driver;
mod submission;
fn main() { submission::sapience_answer() }
"""
_RUST_CALL = "\npub fn sapience_answer() { crate::driver::answer(ENTRY_POINT) }\n"
_GO_CALL = "package main\n\nfunc main() { sapienceCall(ENTRY_POINT) }\n"
_CPP_CLASS = re.compile(r"\b(?:class|struct)\s+Solution\b")
_GO_PACKAGE = re.compile(r"^\s*package\s+\w+", re.MULTILINE)
_GO_MAIN = re.compile(r"^func\s+main\s*\(\s*\)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Written:
    """A program that calls a function: its files, and the commands that make and run it."""

    files: Mapping[str, str]
    compile: tuple[str, ...]
    run: tuple[str, ...]


def with_driver(kit: Installed, source: str, entry_point: str) -> Written:
    """A submission's source with what calls `entry_point`, an identifier; for every language but Python."""
    chain, language = kit.toolchain, kit.toolchain.language
    compiling, running = chain.compile, chain.run

    def own(text: str) -> str:
        return text.replace("ENTRY_POINT", entry_point)

    if language == "c":
        files = {"main.c": source, "driver.cpp": own(_C), "build.sh": own(_C_BUILD), "driver.hpp": _text("driver.hpp")}
        compiling = ("/bin/sh", "build.sh")
    elif language == "cpp":
        owner = "::Solution" if _CPP_CLASS.search(source) else ""
        call = _CPP.replace("ENTRY_POINT", f"{owner}::{entry_point}")
        files = {"main.cpp": source, "driver.cpp": call, "driver.hpp": _text("driver.hpp")}
        compiling = (*chain.compile[:-1], "driver.cpp")
    elif language == "java":
        files = {kit.source_name(source): source, "SapienceDriver.java": _text("SapienceDriver.java")}
        compiling = (*chain.compile, "SapienceDriver.java")
        running = (*chain.run[:-1], "SapienceDriver", entry_point)
    elif language == "go":
        main = _go_main(source)
        files = {"main.go": main, "driver.go": _text("driver.go"), "call.go": own(_GO_CALL)}
        compiling = (*chain.compile[:-1], *files)
    elif language == "rust":
        files = {"main.rs": _RUST, "driver.rs": _text("driver.rs"), "submission.rs": source + own(_RUST_CALL)}
    else:
        files = {chain.source: source + own(_text({"javascript": "driver.js", "bash": "driver.sh"}[language]))}
    return Written(files, compiling, running)


def _go_main(source: str) -> str:
    """The source as a part of the package main, its own main out of the way."""
    source = _GO_MAIN.sub("func submissionMain()", source)
    return _GO_PACKAGE.sub("package main", source, count=1) if _GO_PACKAGE.search(source) else f"package main\n{source}"


@cache
def _text(name: str) -> str:
    return (_DRIVERS / name).read_text(encoding="utf-8")


def as_input(language: Language, args: Sequence[Any]) -> bytes:
    """What a program with a driver reads. Raises ValueError for a value that the language cannot be given."""
    if language == "bash":
        texts = [_shell(value) for value in args]
        if any("\0" in text for text in texts):
            raise ValueError("a text with a byte of zero cannot be given to Bash")
        return "".join(f"{text}\0" for text in texts).encode("utf-8", "replace")
    return json.dumps([_json(value) for value in args]).encode()


def read_answer(language: Language, case: Answer | Failure) -> Answer | Failure:
    """The value that a program with a driver wrote."""
    if isinstance(case, Failure):
        return case
    if language == "bash":
        return Answer(case.value.decode("utf-8", "replace").rstrip("\n"))
    line = case.value.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return Answer(json.loads(line))
    except (ValueError, RecursionError):
        return Failure("runtime_error", f"ended without an answer: {line[:60]!r}"[:DETAIL_LETTERS])


def fitted(language: Language, answer: Any, expected: Any) -> Any:
    """The answer as a value of the expected one's kind, where it can be one; as it is elsewhere.

    JSON has one kind of number and one of list: which of Python's kinds is meant, only the expected value says.
    """
    if language == "bash":
        return _from_shell(answer, expected)
    if type(answer) is int and type(expected) is float:
        return _as_float(answer)
    if type(answer) is float and type(expected) is int and answer.is_integer():
        return int(answer)
    if type(answer) is int and type(expected) is bool and language == "c" and answer in (0, 1):
        return bool(answer)  # C had no other truth values for a long time
    if type(answer) is list and type(expected) in (list, tuple):
        if len(answer) != len(expected):
            return answer
        parts = [fitted(language, *pair) for pair in zip(answer, expected, strict=True)]
        return parts if type(expected) is list else tuple(parts)
    if type(answer) is list and type(expected) is set:
        return _as_set(language, answer, expected)
    if type(answer) is dict and type(expected) is dict:
        names = {_key(key): key for key in expected}
        return {
            names.get(name, name): fitted(language, item, expected.get(names.get(name, name)))
            for name, item in answer.items()
        }
    return answer


def _as_set(language: Language, answer: list[Any], expected: set[Any]) -> Any:
    """A set with the members' own kinds; the list itself where it holds something twice or what no set can hold."""
    known = {json.dumps(_json(item)): item for item in expected}
    try:
        made = {known[text] if (text := json.dumps(item)) in known else _hashable(item) for item in answer}
    except TypeError:
        return answer
    return made if len(made) == len(answer) else answer


def _hashable(item: Any) -> Any:
    return tuple(map(_hashable, item)) if type(item) is list else item


def _as_float(number: int) -> int | float:
    try:
        return float(number)
    except OverflowError:
        return number


def _json(value: Any) -> Any:
    """A plain value as JSON has it. Raises ValueError for a dictionary whose keys have no name."""
    if type(value) in (list, tuple):
        return [_json(item) for item in value]
    if type(value) is set:
        return sorted((_json(item) for item in value), key=json.dumps)
    if type(value) is dict:
        return {_key(key): _json(item) for key, item in value.items()}
    return value


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    if type(key) in (bool, int, float):
        return json.dumps(key)
    raise ValueError(f"a key like {key!r} cannot be given to another language than Python"[:DETAIL_LETTERS])


def _shell(value: Any, depth: int = 0) -> str:
    if value is None:
        return ""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float:
        return repr(value)
    if type(value) is dict:
        return "\n".join(f"{_shell(key, 1)},{_shell(item, 1)}" for key, item in value.items())
    if type(value) in (list, tuple, set):
        if depth > 1:
            raise ValueError("lists of lists of lists cannot be given to Bash")
        items = sorted(value, key=repr) if type(value) is set else value
        nested = any(type(item) in (list, tuple) for item in items)
        return ("\n" if nested else " ").join(_shell(item, depth + 1) for item in items)
    return str(value)


def _from_shell(text: Any, expected: Any) -> Any:
    """A text as the expected value would be written; itself where it cannot be that."""
    try:
        if expected is None:
            return None if text == "" else text
        if type(expected) is bool:
            return {"true": True, "false": False}[text.strip()]
        if type(expected) in (int, float):
            return type(expected)(text)
        if type(expected) is dict:
            known = {_shell(key): key for key in expected}
            pairs = [line.rpartition(",")[::2] for line in text.splitlines()]
            return {known[key]: _from_shell(item, expected[known[key]]) for key, item in pairs}
        if type(expected) in (list, tuple):
            nested = any(type(item) in (list, tuple) for item in expected)
            parts = text.split("\n") if nested else text.split()
            if len(parts) != len(expected):
                return text
            return type(expected)(_from_shell(*pair) for pair in zip(parts, expected, strict=True))
        if type(expected) is set:
            known = {_shell(item): item for item in expected}
            words = text.split()
            return {known[word] for word in words} if len(set(words)) == len(words) else text
    except (KeyError, ValueError):
        pass
    return text
