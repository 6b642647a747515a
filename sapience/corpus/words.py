"""Text as words, the unit in which near duplicates and contamination are measured.

Case, punctuation and spacing do not count. A Chinese or Japanese character is a word of its own, since those
scripts put no blanks between words. This is no tokenizer: nothing is trained on these words.
"""

import re

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_IDEOGRAPHS}]|[^\\W_{_IDEOGRAPHS}]+")


def words(text: str) -> list[str]:
    """Lower-cased words in their order, punctuation and underscores left out."""
    return _WORD.findall(text.lower())


def runs_of_words(sequence: list[str], length: int) -> list[str]:
    """Every `length` words in a row, joined by blanks; empty where the sequence is shorter."""
    return list(map(" ".join, zip(*(sequence[start:] for start in range(length)), strict=False)))
