"""Needles stand whole, between sentences, with their right codes; test keys never occur in training documents."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.problems.copying import copying_drill
from sapience.problems.lookup import (
    hide,
    lookup_document,
    needle_prompt,
    needle_words,
    random_needle,
    random_needles,
    sentence_boundaries,
)
from sapience.problems.words import WORDS

FILLER = "The sun rose. Was it cold? Nobody knew!\n下雨了。他走了。A last line without an end"
fillers = st.lists(st.sampled_from(["One here. ", "Two!\n", "三句话。", "x = 3\n", "Why? ", "word "])).map("".join)


def test_key_words_are_split_and_enough() -> None:
    train, test = needle_words("train"), needle_words("test")
    assert not set(train) & set(test)
    assert len(set(WORDS)) == len(WORDS) == len(train) + len(test)
    assert len(train) >= 300 and len(test) >= 64
    assert random_needle(Random(1), "test").word in test


@given(fillers, st.integers(0, 2**32), st.integers(1, 8))
def test_documents_hide_needles_between_sentences(filler: str, seed: int, count: int) -> None:
    rng = Random(seed)
    needles = random_needles(rng, "train", count)
    asked = needles[: rng.randint(1, count)]
    text = lookup_document(filler, needles, asked, rng)
    hidden, *questions = text.rsplit("\n", len(asked))
    for needle in needles:
        assert hidden.count(needle.sentence) == 1
        before, after = hidden.split(needle.sentence)
        assert not before or before[-1].isspace()
        assert not after or after[0].isspace()
        read = "".join(re.sub(r"The code of \w+ is \d{3}\.", "", before).split())
        assert read in {"".join(filler[:offset].split()) for offset in sentence_boundaries(filler)}
    for needle, question in zip(asked, questions, strict=True):
        assert question == f"What is the code of {needle.word}? The code of {needle.word} is {needle.code}."
    rest = hidden
    for needle in needles:
        rest = rest.replace(needle.sentence, "")
    assert "".join(rest.split()) == "".join(filler.split())


def test_a_question_about_a_needle_that_is_not_there_is_refused() -> None:
    needles = random_needles(Random(0), "train", 3)
    with pytest.raises(ValueError, match=needles[2].word):
        lookup_document(FILLER, needles[:2], [needles[2]], Random(0))


def test_boundaries_are_ends_of_sentences_and_lines() -> None:
    pieces = [FILLER[a:b] for a, b in zip(sentence_boundaries(FILLER), sentence_boundaries(FILLER)[1:], strict=False)]
    assert pieces == [
        "The sun rose. ",
        "Was it cold? ",
        "Nobody knew!\n",
        "下雨了。",
        "他走了。",
        "A last line without an end",
    ]


def test_hide_keeps_the_filler() -> None:
    needle = random_needle(Random(3), "train")
    for offset in sentence_boundaries(FILLER):
        text = hide(FILLER, [needle], [offset])
        assert "".join(text.replace(needle.sentence, "").split()) == "".join(FILLER.split())


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_prompts_put_the_needle_at_its_depth(depth: float) -> None:
    filler = "A short sentence. " * 200
    needle = random_needle(Random(4), "test")
    prompt = needle_prompt(filler, needle, depth)
    body, question = prompt.rsplit("\n", 1)
    assert question == needle.question and not question.endswith(needle.code)
    assert abs(body.index(needle.sentence) / len(body) - depth) < 0.05


def test_same_generator_state_same_document() -> None:
    def make() -> str:
        rng = Random(9)
        needles = random_needles(rng, "train", 4)
        return lookup_document(FILLER, needles, needles[:1], rng)

    assert make() == make()


def test_copying_drills_repeat_what_they_say_and_keep_test_words_out() -> None:
    for seed in range(300):
        text = copying_drill(Random(seed))
        assert text == copying_drill(Random(seed))
        items = re.findall(r"\w+", text)
        assert len(items) <= 40
        assert all(items.count(item) >= 2 for item in items)
        assert not set(items) & set(needle_words("test"))
