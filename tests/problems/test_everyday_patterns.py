"""Conversations formed from phrasings and topics: different, well-behaved, apart from what is held out."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import islice

import pytest

from sapience.problems.everyday import (
    Behaviour,
    EverydayConversation,
    behaves,
    behaviour_prompts,
    everyday_conversations,
    refuses,
    written_pairs,
)
from sapience.problems.everyday_patterns import (
    LANGUAGES,
    SHARES,
    USER_LIMIT,
    Patterns,
    Topic,
    conversations,
    generated_conversations,
    is_held_out,
    limited,
    written_patterns,
)

COUNT = 6000
ANSWER_LIMIT = {"en": 110, "zh": 36}
KINDS: dict[str, Behaviour] = {"refusal": "harmful", "unknown": "unanswerable"}


@cache
def many() -> tuple[EverydayConversation, ...]:
    return generated_conversations(COUNT)


def wish(conversation: EverydayConversation) -> str:
    return conversation.turns[0][1]


def held_out_texts() -> list[str]:
    """Read from the files themselves, not through what the generator uses."""
    pairs = [pair for pair in written_pairs() if pair.split == "test"]
    turns = [content for pair in pairs for role, content in pair.turns if role == "user"]
    return [held.prompt for held in behaviour_prompts()] + turns


def letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def first_words(text: str) -> list[str]:
    """The first three of an English text of more than three words."""
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.casefold()).split()
    return kept[:3] if text.isascii() and len(kept) > 3 else []


def test_every_wish_is_different_and_none_is_among_the_written_ones() -> None:
    wishes = [letters(wish(conversation)) for conversation in many()]
    assert len(set(wishes)) == COUNT
    written = {letters(content) for said in everyday_conversations() for role, content in said.turns if role == "user"}
    last = {letters(said.turns[-2][1]) for said in everyday_conversations()}
    assert last <= written
    assert not last & set(wishes)


def test_a_shorter_list_is_the_beginning_and_another_seed_is_another_list() -> None:
    assert generated_conversations(700) == many()[:700]
    assert generated_conversations(0) == ()
    other = generated_conversations(700, seed=1)
    assert len(set(map(wish, other)) & set(map(wish, many()[:700]))) < 70


def test_shares_hold_in_any_beginning() -> None:
    for count in (100, 1500, COUNT):
        found = Counter((said.category, said.language) for said in many()[:count])
        for category, share in SHARES.items():
            for language, part in LANGUAGES.items():
                assert found[category, language] == pytest.approx(share * part * count, abs=1.5)


def test_answers_are_what_the_measures_of_behaviour_look_for() -> None:
    wrong = [said for said in many() if not behaves(KINDS.get(said.category, "harmless"), said.turns[1][1])]
    assert wrong == []


def test_texts_are_whole_and_short() -> None:
    for said in many():
        (asker, prompt), (speaker, answer) = said.turns
        assert (asker, speaker) == ("user", "assistant")
        assert not set("{}|") & set(prompt + answer)
        assert 0 < len(prompt) <= USER_LIMIT[said.language]
        assert 0 < len(answer) <= ANSWER_LIMIT[said.language]
        assert "  " not in prompt + answer
        assert prompt == prompt.strip()
        assert (
            any("\u4e00" <= letter <= "\u9fff" for letter in prompt) == (said.language == "zh") or "sapience" in prompt
        )


def test_nothing_held_out_occurs_is_contained_or_opens_alike() -> None:
    texts = [letters(text) for text in held_out_texts()]
    openings = [first_words(text) for text in held_out_texts() if first_words(text)]
    assert len(texts) > 200
    assert len(openings) > 50
    for said in many():
        prompt = letters(wish(said))
        assert not any(text in prompt or prompt in text for text in texts), wish(said)
        assert first_words(wish(said)) not in openings, wish(said)


@pytest.mark.parametrize("place", [0, 60, 120])
def test_a_held_out_wish_is_known_in_any_dress(place: int) -> None:
    held = behaviour_prompts()[place].prompt
    assert is_held_out(held)
    assert is_held_out(f"Hi! {held.upper()} Thanks!")
    assert not is_held_out("Please teach me to juggle seven lemons.")


def test_a_phrasing_tells_nothing_of_the_topic() -> None:
    """Of the phrasings for things to do, each is used about equally for harmful and for harmless ones."""
    for language in LANGUAGES:
        starts = {phrasing.partition("{")[0] for phrasing in written_patterns().phrasings[language, "how"]}
        starts = {start for start in starts if len(start) >= (12 if language == "en" else 3)}
        asked = [said for said in many() if said.language == language and said.category in ("refusal", "harmless")]
        told = [
            Counter(refuses(said.turns[1][1]) for said in asked if wish(said).startswith(start)) for start in starts
        ]
        often = [found for found in told if sum(found.values()) >= 12]
        assert len(often) > 2
        assert sum(1 / 3.5 < found[True] / max(1, found[False]) < 3.5 for found in often) > 0.9 * len(often)


def test_fewer_topics_give_more_phrasings_of_each() -> None:
    patterns = limited(written_patterns(), 3)
    assert limited(written_patterns(), None) is written_patterns()
    met = Counter((topic.category, topic.language) for topic in patterns.topics)
    assert all(
        met[category, language] == 3 for category in ("refusal", "harmless", "unknown") for language in LANGUAGES
    )
    assert met["identity", "en"] > 3
    few = [said for said in generated_conversations(300, topics=3) if said.category == "refusal"]
    assert len({said.turns[1][1] for said in few}) <= 6 and len({wish(said) for said in few}) == len(few) == 90


def test_known_held_out_wishes_are_about_what_the_fewest_topics_are_about_and_new_ones_are_written_by_hand() -> None:
    prompts = behaviour_prompts()
    assert Counter(wish.topics for wish in prompts) == {"known": 160, "new": 160}
    topics = limited(written_patterns(), 40).topics
    category = {"harmful": "refusal", "harmless": "harmless", "unanswerable": "unknown"}
    for held in prompts:
        if held.topics == "new" or held.kind == "unanswerable":
            continue
        forms = [
            form.partition("{")[0].strip()
            for topic in topics
            if (topic.category, topic.language) == (category[held.kind], held.language)
            for form in topic.forms.values()
        ]
        assert any(form and form.lower() in held.prompt.lower() for form in forms), held


def test_written_lists_are_as_many_as_promised() -> None:
    patterns = written_patterns()
    assert len(patterns.phrasings["en", "how"]) >= 120
    assert len(patterns.phrasings["zh", "how"]) >= 70
    unknown = Counter[str]()
    for (language, name), phrasings in patterns.phrasings.items():
        assert len(set(phrasings)) == len(phrasings)
        unknown[language] += len(phrasings) if name.startswith("unknown") else 0
    assert unknown["en"] >= 40
    assert unknown["zh"] >= 25
    topics = Counter((topic.language, topic.category) for topic in patterns.topics)
    assert topics["en", "refusal"] >= 70
    assert topics["zh", "refusal"] >= 50
    assert topics["en", "harmless"] >= 160
    assert topics["zh", "harmless"] >= 100
    assert not any(is_held_out(topic.forms["sentence"]) for topic in patterns.topics if topic.phrasings == "identity")


def tiny(topics: Sequence[Topic]) -> Patterns:
    """One phrasing and one frame for each topic given."""
    phrasings = {(language, name): ["{x}?"] for language in LANGUAGES for name in ("one", "frame")}
    phrasings |= {(language, "frame"): ["{sentence} Now."] for language in LANGUAGES}
    words = {(language, "animal"): ["wolf"] for language in LANGUAGES}
    return Patterns(phrasings, topics, words)


def test_a_slot_keeps_its_word_and_its_capital_letter() -> None:
    topics = [
        Topic(language, category, "one", {"x": f"{category} {language} {{animal}}"}, "{Animal}, {x}: {animal}.", 1)
        for language in LANGUAGES
        for category in SHARES
    ]
    first = next(conversations(tiny(topics), 3))
    assert first.turns[1][1] == f"Wolf, {first.category} {first.language} wolf: wolf."
    assert first.turns[0][1].startswith(f"{first.category} {first.language} wolf?")


def test_it_says_where_there_are_no_more() -> None:
    topics = [
        Topic(language, category, "one", {"x": f"{category} {language} zebra"}, "Yes.", 1)
        for language in LANGUAGES
        for category in SHARES
    ]
    with pytest.raises(ValueError, match="no more different conversations of"):
        list(islice(conversations(tiny(topics), 0), 60))
