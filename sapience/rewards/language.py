"""Is an answer written in the language it was asked in?

The rule counts letters: which share of them is Chinese characters. Code, formulas and digits say nothing about a
language and do not count. One character of Chinese does the work of several Latin letters, and Chinese prose on
mathematics and programs is full of Latin names; hence the uneven thresholds.

Not covered: telling English from other languages in Latin letters, or Chinese from Japanese written in kanji.
"""

from __future__ import annotations

import re
from typing import Literal

from sapience.rewards.source_code import without_fenced_blocks

MOST_CHINESE_IN_ENGLISH = 0.05
LEAST_CHINESE_IN_CHINESE = 0.30
"""Shares of Chinese characters among all letters."""

_NOT_PROSE = re.compile(
    r"\$\$[^$]{0,2000}\$\$|\$[^$\n]{0,500}\$|\\\(.{0,500}?\\\)|\\\[.{0,500}?\\\]|`[^`\n]{0,500}`|\\[a-zA-Z]+", re.DOTALL
)
"""Formulas, code within a line, commands of LaTeX. Lengths are bounded so that no text takes long."""
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def language_consistent(text: str, language: Literal["en", "zh"]) -> bool:
    """True also for a text without letters."""
    share = _chinese_share(text)
    if share is None:
        return True
    return share <= MOST_CHINESE_IN_ENGLISH if language == "en" else share >= LEAST_CHINESE_IN_CHINESE


def language_of(text: str) -> Literal["en", "zh"]:
    """`zh` for a text with as many Chinese characters as an answer in Chinese must have; `en` stands for all others."""
    share = _chinese_share(text)
    return "zh" if share is not None and share >= LEAST_CHINESE_IN_CHINESE else "en"


def _chinese_share(text: str) -> float | None:
    """Of all letters of the prose; None without letters."""
    prose = _NOT_PROSE.sub(" ", without_fenced_blocks(text))
    letters = sum(map(str.isalpha, prose))
    return len(_CHINESE.findall(prose)) / letters if letters else None
