"""Where in an answer the program stands: fenced blocks of Markdown.

A fence is a line of three or more backticks, indented by at most three blanks; the opening one may name a language, the
closing one is at least as long and names nothing. Not covered: fences of tildes, programs outside any fence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sapience.problems.problem import Language

_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\r\n]*?)[ \t]*[\r\n]*")
_NAMES: dict[Language, tuple[str, ...]] = {
    "python": ("python", "python3", "py"),
    "c": ("c",),
    "cpp": ("cpp", "c++", "cc", "cxx"),
    "java": ("java",),
    "javascript": ("javascript", "js", "node"),
    "go": ("go", "golang"),
    "rust": ("rust", "rs"),
    "bash": ("bash", "sh", "shell"),
}
"""What a fence may call a language."""


def fenced_source(text: str, language: Language = "python") -> str | None:
    """The content of the last complete block marked as the language or not marked; None where there is none."""
    last = None
    for marked, content, closed in _blocks(text):
        if closed and (marked == "" or marked in _NAMES[language]):
            last = content
    return last


def without_fenced_blocks(text: str) -> str:
    """The text around the blocks; what follows a fence that is never closed counts as inside."""
    outside: list[str] = []
    for language, content, _ in _blocks(text):
        if language is None:
            outside.append(content)
    return "".join(outside)


def _blocks(text: str) -> Iterator[tuple[str | None, str, bool]]:
    """(language or None for text outside, content, whether a fence closed it), in order."""
    language: str | None = None
    fence, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        found = _FENCE.fullmatch(line)
        if found and language is None:
            yield None, "".join(lines), False
            fence, language, lines = found[1], found[2].lower(), []
        elif found and len(found[1]) >= len(fence) and not found[2]:
            yield language, "".join(lines), True
            language, lines = None, []
        else:
            lines.append(line)
    yield language, "".join(lines), False
