"""Word runs against a loop, near duplicates against exact Jaccard similarity, and the split that nothing crosses."""

import random
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.corpus.decontamination import HeldOutQuestions
from sapience.corpus.duplicates import exact_duplicates, near_duplicates, signatures
from sapience.corpus.ngrams import WordRuns
from sapience.corpus.selection import held_out

WORDS = [f"w{n}" for n in range(400)]


def words(text: str) -> list[str]:
    return re.findall(
        r"[\u3000-\ud7ff]?[^\s\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e\u3000-\ud7ff]+|[\u3000-\ud7ff]",
        text.lower(),
    )


def runs(text: str, size: int) -> list[tuple[str, ...]]:
    sequence = words(text)
    return [tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.text("abAB cé中文の.,-\n1", max_size=40), min_size=1, max_size=6),
    size=st.integers(1, 5),
)
def test_equal_hashes_are_equal_runs_of_words(texts: list[str], size: int) -> None:
    batch = WordRuns(texts)
    assert batch.words().tolist() == [len(words(text)) for text in texts]
    hashes, counts = batch.hashes(size)
    expected = [run for text in texts for run in runs(text, size)]
    assert counts.tolist() == [len(runs(text, size)) for text in texts]
    by_hash: dict[int, set[str]] = {}
    for value, run in zip(hashes.tolist(), expected, strict=True):
        by_hash.setdefault(value, set()).add("".join(run))
    assert all(len(found) == 1 for found in by_hash.values())
    assert len(by_hash) == len({"".join(run) for run in expected})


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = random.Random(3)
    originals = [[rng.choice(WORDS) for _ in range(300)] for _ in range(60)]
    documents, near = list(originals), []
    for original in originals[:30]:
        changed = list(original)
        for _ in range(rng.choice([1, 3, 6])):
            changed[rng.randrange(300)] = "changed"
        documents.append(changed)
        near.append(True)
    for original in originals[30:]:  # half of the words are others: similarity far below the limit
        documents.append(original[:150] + [rng.choice(WORDS) for _ in range(150)])
        near.append(False)
    sketches = signatures(WordRuns([" ".join(document) for document in documents]))
    for cut in (len(documents), 37):  # one part, or two
        parts = [sketches[:cut], sketches[cut:]]
        found = near_duplicates(parts, np.ones(len(documents), bool), 0.7)
        assert not found[:60].any()
        assert found[60:].tolist() == near


def test_the_dropped_one_is_the_later_and_unconsidered_documents_play_no_part() -> None:
    text = " ".join(WORDS[:100])
    sketches = signatures(WordRuns([text, text + " end", "five words are too few", "five words were too few"]))
    assert near_duplicates([sketches], np.ones(4, bool), 0.7).tolist() == [False, True, False, False]
    assert near_duplicates([sketches], np.array([False, True, True, True]), 0.7).tolist() == [False] * 4
    assert near_duplicates([sketches], np.ones(4, bool), 1.0).tolist() == [False] * 4


def test_short_texts_match_only_their_equals() -> None:
    sketches = signatures(WordRuns(["one two", "one three", "one two", "uno"]))
    assert near_duplicates([sketches], np.ones(4, bool), 0.7).tolist() == [False, False, True, False]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_exact_duplicates_keep_the_first(identities: list[int]) -> None:
    found = exact_duplicates(np.array(identities, np.uint64))
    assert found.tolist() == [value in identities[:place] for place, value in enumerate(identities)]


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=80, unique=True), least=st.floats(0, 40))
def test_held_out_is_enough_but_never_over_a_tenth(sizes: list[int], least: float) -> None:
    identities = np.array([size * 2654435761 for size in sizes], np.uint64)
    chosen = held_out(identities, np.array(sizes), 0.01, least)
    taken, most = sum(sizes[place] for place in chosen), sum(sizes) / 10
    assert taken <= most
    order = np.random.default_rng(0).permutation(len(sizes))
    again = held_out(identities[order], np.array(sizes)[order], 0.01, least)
    assert set(order[again].tolist()) == set(chosen.tolist())


def test_contamination_is_thirteen_words_in_a_row_or_a_whole_shorter_question() -> None:
    question = "If a train leaves the station at nine and travels for three hours at sixty miles, how far does it go?"
    short = "How many legs do seven spiders and two dogs have?"
    held = HeldOutQuestions([question, short, "What is 2 + 2?"], 13)
    cases = {
        f"Some story first. {question} And more.": True,
        "A tale: if a TRAIN leaves the station at nine, and travels for three hours (not at all).": True,
        "If a train leaves the station at nine and then nothing happens for a very long time.": False,
        f"Riddle book. {short} Thirty-six and eight.": True,
        "How many legs do seven spiders have?": False,
        "What is 2 + 2? It is four.": False,
    }
    assert held.found_in(WordRuns(list(cases))).tolist() == list(cases.values())
