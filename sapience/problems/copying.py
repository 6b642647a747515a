"""Copying documents: a random sequence that comes again later, to form induction.

A model that has to continue a sequence it saw once, and that no statistics of language can guess, learns to look
back for the last occurrence of what it just read and to go on as there. Words, syllables and numbers are mixed, so
that the ability does not stick to one kind of token.
"""

from __future__ import annotations

from random import Random

from sapience.problems.words import TRAIN_WORDS

_ONSETS = "b d f g k l m n p r s t v w z br dr fl gr kl pl st tr sh ch".split()
_VOWELS = "a e i o u ai ou ea".split()


def invented_word(rng: Random) -> str:
    """Two or three syllables that mean nothing in any language, e.g. `grakoustu`."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3)))


def _item(rng: Random, kind: int) -> str:
    if kind == 0:
        return rng.choice(TRAIN_WORDS)
    if kind == 1:
        return str(rng.randrange(10, 1000))
    return invented_word(rng)


def copying_document(rng: Random, items: int) -> str:
    """About `items` words and numbers: random sequences of 4-16, each of them repeated once or twice, in part mixed.

    The second occurrence follows at once or after another sequence, so that the way back varies.
    """
    lines: list[str] = []
    written = 0
    while written < items:
        kind = rng.randrange(4)
        sequence = [_item(rng, rng.randrange(3) if kind == 3 else kind) for _ in range(rng.randint(4, 16))]
        other = [_item(rng, rng.randrange(3)) for _ in range(rng.randint(2, 8))]
        order = rng.choice(
            ([sequence, sequence], [sequence, other, sequence], [sequence, other, sequence, other])
        )
        lines.extend(" ".join(part) for part in order)
        written += sum(map(len, order))
    return "\n".join(lines)
