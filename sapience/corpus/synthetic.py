"""Documents that are made, not found: problems with their answers, and facts to look up or sequences to copy.

Both are a function of the recipe's seed (and, for lookups, of the corpus's own training text): made again they are
the same. All questions are of the training split. They go into training only, for the evaluation asks new ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from sapience.corpus.contamination import HeldOutQuestions
from sapience.corpus.documents import Document
from sapience.problems.copying import copying_document
from sapience.problems.families import generate
from sapience.problems.lookup import lookup_document, random_needles, sentence_boundaries
from sapience.problems.plain import plain_document
from sapience.recipe import UserError
from sapience.recipe.corpus import LookupSource, ProblemsSource

GENERATED = "generated"
"""In place of the licence of a text that nobody wrote."""
_CHARACTERS_PER_ITEM = 6
"""Of a copying document, which is as long as a lookup document's filler."""


def problem_documents(
    section: ProblemsSource, name: str, held_out: HeldOutQuestions, seed: int
) -> Iterator[Document]:
    """`families[family]` documents per family, about the share `worked` with steps; held-out questions left out."""
    for family, count in section.families.items():
        rng = Random(f"worked:{family}:{seed}")
        for problem in generate(family, "train", count, seed):
            worked = rng.random() < section.worked
            if not held_out.is_held_out(problem.question):
                yield Document(plain_document(problem, worked), section.domain, "", "problem", name, GENERATED)


def lookup_documents(
    section: LookupSource, name: str, fillers: Mapping[str, Sequence[Document]], seed: int
) -> Iterator[Document]:
    """`documents` documents, the share `copying` of them repeated sequences, the others needles hidden in text.

    `fillers` are training documents by group, each group drawn from equally often: languages, so that looking up is
    learnt in each. UserError where there is none and needles have to be hidden.
    """
    groups = sorted(group for group, documents in fillers.items() if documents)
    if not groups and section.copying < 1:
        raise UserError(
            f"source {name} hides its facts in the corpus's own prose, and there is none: add a source of kind "
            "text, or set copying: 1"
        )
    rng = Random(f"lookup:{name}:{seed}")
    for _ in range(section.documents):
        characters = rng.randint(section.filler_characters // 4, section.filler_characters)
        if rng.random() < section.copying:
            text = copying_document(rng, max(8, characters // _CHARACTERS_PER_ITEM))
            yield Document(text, section.domain, "", "problem", name, GENERATED)
            continue
        source = rng.choice(fillers[rng.choice(groups)])
        needles = random_needles(rng, "train", rng.randint(1, section.needles))
        questions = rng.sample(needles, rng.randint(1, min(len(needles), section.questions)))
        text = lookup_document(passage(source.text, characters, rng), needles, questions, rng)
        yield Document(text, section.domain, "", "problem", name, source.license)


def passage(text: str, characters: int, rng: Random) -> str:
    """At most `characters` from the beginning of a random sentence on, to the end of a sentence where one fits."""
    starts = [offset for offset in sentence_boundaries(text) if offset + characters <= len(text)] or [0]
    start = rng.choice(starts)
    window = text[start : start + characters]
    ends = [offset for offset in sentence_boundaries(window)[:-1] if offset > characters // 2]
    return window[: ends[-1]].strip() if ends else window.strip()
