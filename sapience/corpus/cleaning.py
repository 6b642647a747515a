"""What is done to a text before it counts as a document, and what a document must be to stay.

`tidy` changes how a text is written, never what it says; `why_dropped` gives the first reason against a document.
Language is judged elsewhere (`language`), and so is likeness to other documents (`deduplication`).
"""

import re
import unicodedata

from sapience.recipe.corpus import CleaningSection

LEAST_LETTERS = 0.5
"""Share of letters among the visible characters of prose. Tables of numbers and ruled boxes are below it; running
text of any script is above, also where vowel signs do not count as letters (Hindi about 0.6)."""

_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters but tab and newline, byte order marks, halves of surrogate pairs (not writable as UTF-8)."""
_BLANK_LINES = re.compile(r"\n{3,}")


def tidy(text: str, kind: str) -> str:
    """The text in NFC with plain newlines, no control characters, no blanks at the ends of lines, no blank border.

    In prose and mathematics runs of blank lines become one; in code they are left, for they are its style.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _UNWANTED.sub("", text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if kind != "code":
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def why_dropped(text: str, kind: str, cleaning: CleaningSection) -> str | None:
    """The first reason against a tidy document, in the words of the stage's figures, or None."""
    if len(text) < cleaning.least_characters:
        return "too short"
    if repeated_lines(text) > cleaning.repetition:
        return "repetitive"
    if kind == "text" and letters(text) < LEAST_LETTERS:
        return "mostly not letters"
    return None


def repeated_lines(text: str) -> float:
    """Share of the lines with a letter or digit that repeat an earlier one; indentation does not count."""
    lines = [line for line in map(str.strip, text.split("\n")) if any(map(str.isalnum, line))]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def letters(text: str) -> float:
    """Share of letters among the characters that are not white space."""
    visible = "".join(text.split())
    return sum(map(str.isalpha, visible)) / len(visible) if visible else 0.0
