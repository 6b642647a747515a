"""Long texts cut into documents at places where a reader would cut them.

Rules go from coarse to fine: prose is cut between paragraphs, then lines, sentences, words; code between top-level
definitions, then blocks at the margin, blank lines, lines, words. A finer rule is used only inside a unit that the
coarser one leaves too long, and neighbouring units are packed together again. Nothing is lost or written twice: the
pieces joined are the text. The rules look at line beginnings and parse nothing, so broken code is cut as well.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence

Rule = Callable[[str], Iterable[int]]
"""Gives the offsets, in rising order, at which a text may be cut."""

_DEFINITIONS = (
    *("def ", "async def ", "class ", "if __name__"),
    *("function ", "async function ", "export ", "fn ", "pub ", "impl ", "func ", "type ", "struct ", "interface "),
)
"""Beginnings of top-level definitions: Python's, then those of JavaScript, Rust, Go."""
_FRAGMENT = 4
"""A piece shorter than the longest allowed over this joins its neighbour where both fit."""


def _after(pattern: str) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: (match.end() for match in compiled.finditer(text))


def definition_starts(text: str) -> list[int]:
    """Offsets of the lines where top-level definitions begin, with the decorators and comments right above them."""
    starts: list[int] = []
    heading: int | None = None
    offset = 0
    for line in text.split("\n"):
        if line.startswith(_DEFINITIONS):
            starts.append(offset if heading is None else heading)
            heading = None
        elif line.startswith(("@", "#")):
            heading = offset if heading is None else heading
        elif not line.startswith((" ", "\t", ")", "]", "}")):  # else: a decorator over several lines goes on
            heading = None
        offset += len(line) + 1
    return starts


_LINES, _BLANKS = _after(r"\n"), _after(r"\s")
_SENTENCES = _after(r"[.!?]\s|[。！？]")
PROSE: tuple[Rule, ...] = (_after(r"\n\n"), _LINES, _SENTENCES, _BLANKS)
CODE: tuple[Rule, ...] = (definition_starts, _after(r"\n\n(?=[^\s)\]}])"), _after(r"\n\n(?=[^\n])"), _LINES, _BLANKS)


def cut(text: str, kind: str, most: int) -> list[str]:
    """Pieces of at most `most` characters that joined are `text`; about equal in size as far as the text allows."""
    pieces: list[str] = []
    for piece in _cut(text, CODE if kind == "code" else PROSE, most):
        joined = len(pieces[-1]) + len(piece) if pieces else 0
        if pieces and joined <= most and _FRAGMENT * min(len(pieces[-1]), len(piece)) < most:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _cut(text: str, rules: Sequence[Rule], most: int) -> list[str]:
    if len(text) <= most:
        return [text]
    if not rules:
        return [text[start : start + most] for start in range(0, len(text), most)]
    goal = len(text) / math.ceil(len(text) / most)
    pieces: list[str] = []
    start = end = 0
    for offset in [*rules[0](text), len(text)]:
        if end > start and (offset - start > most or end - start >= goal):
            pieces.append(text[start:end])
            start = end
        end = offset
        if end - start > most:
            pieces.extend(_cut(text[start:end], rules[1:], most))
            start = end
    if end > start:
        pieces.append(text[start:end])
    return pieces
