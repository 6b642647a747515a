"""Copying drills: short documents that say the same thing again, to form induction.

A model that continues a sequence it has seen once learns to look back for the last occurrence of what it just read and
to go on as there. In a network of a few million weights that ability forms as a jump, and only where its beginnings pay:
the documents are short (a query has few places to look at), their items few and simple (digits, letters, common words),
and what is repeated is most of the text. Long documents with one question at the end teach nothing before the jump.
"""

from __future__ import annotations

from random import Random

from sapience.problems.words import TRAIN_WORDS

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def copying_drill(rng: Random) -> str:
    """A sequence repeated two to four times, or pairs of a key and a value that come again in another order."""
    return _sequence(rng) if rng.random() < 0.5 else _pairs(rng)


def _sequence(rng: Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        items = rng.sample(DIGITS, rng.randint(3, 7))
    elif kind == 1:
        items = rng.sample(LETTERS, rng.randint(3, 8))
    else:
        items = rng.sample(TRAIN_WORDS, rng.randint(2, 4))
    line = rng.choice((" ", ", ")).join(items)
    return rng.choice(("\n", "; ", ". ")).join([line] * rng.randint(2, 4))


def _pairs(rng: Random) -> str:
    count = rng.randint(1, 3)
    letters = rng.random() < 1 / 3
    keys = rng.sample(LETTERS, count) if letters else rng.sample(TRAIN_WORDS, count)
    joint = rng.choice((" ", ": ", " is "))
    pairs = []
    for key in keys:
        short = letters or rng.random() < 0.3
        pairs.append(f"{key}{joint}{rng.randrange(10) if short else rng.randrange(100, 1000)}")
    said = list(pairs)
    for _ in range(rng.randint(1, 2)):
        said += rng.sample(pairs, count)
    return rng.choice(("\n", ", ", ". ")).join(said)
