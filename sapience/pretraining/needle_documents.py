"""Training documents for long contexts: facts hidden in real text, asked for at the end.

A needle lies anywhere in the document, so that the model learns to look back over the whole context. The words are of
the training split; the needle map asks for others.
"""

from collections.abc import Iterator, Sequence
from random import Random

from sapience.corpus.tokenizer import Tokenizer
from sapience.problems.lookup import Needle, lookup_document, needle_words, random_needles
from sapience.recipe.extend import NeedleSection


def needle_token_documents(
    tokenizer: Tokenizer, fillers: Sequence[str], length: int, lengths: int, section: NeedleSection, seed: int
) -> Iterator[list[int]]:
    """`section.documents` documents of at most `length` tokens, bos and eos included, most of them nearly that long.

    `lengths` is how many pre-training lengths fit into `length`; it bounds the number of needles.
    """
    for number in range(section.documents):
        rng = Random(f"needle document {seed} {length} {number}")
        most = min(section.density * lengths, len(needle_words("train")))
        needles = random_needles(rng, "train", rng.randint(min(section.questions, most), most))
        questions = rng.sample(needles, min(len(needles), rng.randint(1, section.questions)))
        yield _fit(tokenizer, fillers, needles, questions, length, rng)


def _fit(
    tokenizer: Tokenizer,
    fillers: Sequence[str],
    needles: Sequence[Needle],
    questions: Sequence[Needle],
    length: int,
    rng: Random,
) -> list[int]:
    """The document with as much filler as fits; the filler is measured once and cut in proportion."""
    room = length - 2
    order = rng.random()
    bare = len(tokenizer.encode(lookup_document("", needles, questions, Random(order))))
    filler = _filler(fillers, 8 * room, rng)
    share = len(tokenizer.encode(filler)) / len(filler)
    characters = int(max(0, room - bare) / share)
    while True:
        tokens = tokenizer.encode(lookup_document(filler[:characters], needles, questions, Random(order)))
        if len(tokens) <= room or characters == 0:
            return [tokenizer.bos_id, *tokens[-room:], tokenizer.eos_id]
        characters = max(0, characters - int((len(tokens) - room) / share) - 8)


def _filler(fillers: Sequence[str], characters: int, rng: Random) -> str:
    pieces: list[str] = []
    total = 0
    while total < characters:
        piece = fillers[rng.randrange(len(fillers))]
        pieces.append(piece)
        total += len(piece) + 1
    return "\n".join(pieces)[:characters]
