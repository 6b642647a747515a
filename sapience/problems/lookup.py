"""Needles: codes hidden in text, to train and to measure looking something up in a context.

`The code of WORD is DDD.` stands somewhere between two sentences of a filler; at the end the code of the word is
asked for. Hidden in real text and in the mix from the start, such documents form the copying ability that context
extension lives on. Words that test needles use never occur as keys in training; the codes are random in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from sapience.problems.words import TEST_WORDS, TRAIN_WORDS

_AFTER_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")


@dataclass(frozen=True, slots=True)
class Needle:
    """A key word and its code of three digits."""

    word: str
    code: str

    @property
    def sentence(self) -> str:
        return f"The code of {self.word} is {self.code}."

    @property
    def question(self) -> str:
        """Ends where the model has to go on with `answer`."""
        return f"What is the code of {self.word}? The code of {self.word} is"

    @property
    def answer(self) -> str:
        return f" {self.code}"


def needle_words(split: Literal["train", "test"]) -> tuple[str, ...]:
    """The key words of a split; the two splits share none."""
    return TEST_WORDS if split == "test" else TRAIN_WORDS


def random_needle(rng: Random, split: Literal["train", "test"]) -> Needle:
    """One needle with a random word of the split and a code from 100 to 999."""
    return random_needles(rng, split, 1)[0]


def random_needles(rng: Random, split: Literal["train", "test"], count: int) -> list[Needle]:
    """`count` needles with different words and different codes; at most as many as the split has words.

    Raises ValueError where more are asked for.
    """
    words = rng.sample(needle_words(split), count)
    codes = rng.sample(range(100, 1000), count)
    return [Needle(word, str(code)) for word, code in zip(words, codes, strict=True)]


def sentence_boundaries(text: str) -> list[int]:
    """Offsets at which a sentence or line of `text` ends, the white space after it included; always also 0 and the end."""
    ends = {match.end() for match in _AFTER_SENTENCE.finditer(text)}
    return sorted(ends | {0, len(text)})


def hide(filler: str, needles: Sequence[Needle], offsets: Sequence[int]) -> str:
    """`filler` with each needle's sentence put in at its offset (one of `sentence_boundaries`), blanks around it."""
    pieces: list[str] = []
    done = 0
    for offset, needle in sorted(zip(offsets, needles, strict=True), key=lambda pair: pair[0]):
        pieces.append(filler[done:offset])
        before = next((piece for piece in reversed(pieces) if piece), "")
        gap = "" if not before or before[-1].isspace() else " "
        pieces.append(f"{gap}{needle.sentence} ")
        done = offset
    pieces.append(filler[done:])
    return "".join(pieces).rstrip()


def lookup_document(filler: str, needles: Sequence[Needle], questions: Sequence[Needle], rng: Random) -> str:
    """A training document: `needles` at random places between sentences of `filler`, then `questions` with answers.

    `questions` are usually some of `needles`. Raises ValueError for a question whose needle is not hidden, because
    such a document would teach to guess.
    """
    unknown = [needle.word for needle in questions if needle not in needles]
    if unknown:
        raise ValueError(f"questions about codes that are not in the document: {', '.join(unknown)}")
    boundaries = sentence_boundaries(filler)
    text = hide(filler, needles, [rng.choice(boundaries) for _ in needles])
    asked = [f"{needle.question}{needle.answer}." for needle in questions]
    return "\n".join([text, *asked])


def needle_prompt(filler: str, needle: Needle, depth: float) -> str:
    """A test prompt with `needle` at the sentence boundary nearest to `depth` (0 the start, 1 the end of `filler`).

    The model has to go on with `needle.answer`.
    """
    nearest = min(sentence_boundaries(filler), key=lambda offset: abs(offset - depth * len(filler)))
    return f"{hide(filler, [needle], [nearest])}\n{needle.question}"
