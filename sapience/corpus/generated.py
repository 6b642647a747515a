"""Documents that nobody wrote: solved problems, facts hidden in text that have to be found again, repeated sequences.

All are of the training split only; the rule that says so lives in the room `problems`. A document is a function of
the recipe, the seed and, for lookups, the training text.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from random import Random

from sapience.corpus.documents import Document
from sapience.problems.copying import copying_drill
from sapience.problems.families import generate
from sapience.problems.lookup import lookup_document, random_needles, sentence_boundaries
from sapience.problems.plain import SEPARATOR, plain_document
from sapience.recipe.corpus import DrillsSection, LookupSection, ProblemsSection
from sapience.recipe.errors import UserError


def problem_documents(section: ProblemsSection, seed: int) -> Iterator[Document]:
    """The source's problems as documents, in random order.

    Raises UserError for an unknown family and for one that has fewer training questions than asked for.
    """
    texts: list[str] = []
    for family, count in section.families.items():
        rng = Random(f"{section.name}:{family}:{seed}")
        solved = [plain_document(p, rng.random() < section.worked) for p in generate(family, "train", count, seed)]
        start = 0
        while start < len(solved):
            together = rng.randint(1, section.together)
            texts.append(SEPARATOR.join(solved[start : start + together]))
            start += together
    Random(f"{section.name}:{seed}").shuffle(texts)
    for text in texts:
        yield Document(text, section.domain, "", "problem", section.name, section.license)


class Filler:
    """Text that facts are hidden in: passages from one sentence's beginning to another's end."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text for text in texts if text.strip()]
        self._boundaries = [sentence_boundaries(text) for text in self._texts]

    def __bool__(self) -> bool:
        return bool(self._texts)

    def passage(self, size: int, rng: Random) -> str:
        """At most `size` bytes of UTF-8 that end with a sentence; of a longer sentence its beginning."""
        if size <= 0:
            return ""
        number = rng.randrange(len(self._texts))
        text, boundaries = self._texts[number], self._boundaries[number]
        start = rng.choice(boundaries[:-1])
        window = text[start : start + size].encode()[:size].decode(errors="ignore")
        last = bisect_right(boundaries, start + len(window)) - 1
        if last > bisect_left(boundaries, start):
            window = text[start : boundaries[last]]
        return window.strip()


def lookup_documents(section: LookupSection, filler: Filler, seed: int) -> Iterator[Document]:
    """The source's documents. Raises UserError where there is no text to hide anything in."""
    if not filler:
        raise UserError(
            f"the source {section.name} hides facts in the corpus's text, and there is none: add a source of kind text"
        )
    rng = Random(f"{section.name}:{seed}")
    for _ in range(section.documents):
        needles = random_needles(rng, "train", rng.randint(*section.needles))
        fewest, most = (min(bound, len(needles)) for bound in section.questions)
        questions = rng.sample(needles, rng.randint(fewest, most))
        facts = sum(len(n.sentence) + 2 for n in needles) + sum(len(q.question) + len(q.answer) + 2 for q in questions)
        passage = filler.passage(rng.randint(*section.total_bytes) - facts, rng)
        text = lookup_document(passage, needles, questions, rng)
        yield Document(text, section.domain, "", "problem", section.name, section.license)


def drill_documents(section: DrillsSection, seed: int) -> Iterator[Document]:
    """The source's copying drills, all different."""
    rng = Random(f"{section.name}:{seed}")
    seen: set[str] = set()
    while len(seen) < section.documents:
        text = copying_drill(rng)
        if text not in seen:
            seen.add(text)
            yield Document(text, section.domain, "", "problem", section.name, section.license)
