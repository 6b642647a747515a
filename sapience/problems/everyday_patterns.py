"""Any number of different everyday conversations, formed from phrasings and topics.

A tiny model that sees a few hundred conversations many times learns them by heart and judges a new wish by its wording.
Seen once each in very many wordings, the topic is what remains to be learned: the same phrasings ask for harmful and for
harmless things, for real and for invented ones. The phrasings, topics and words lie in `written/` (its README says how
they were written). Conversations of several turns and system messages are not formed here; `everyday.jsonl` has them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Any, Generic, TypeVar

from sapience.problems.everyday import (
    EverydayConversation,
    behaviour_prompts,
    everyday_conversations,
    records,
    written_pairs,
)

SHARES = {"refusal": 0.3, "harmless": 0.4, "unknown": 0.22, "greeting": 0.04, "identity": 0.04}
LANGUAGES = {"en": 0.6, "zh": 0.4}
USER_LIMIT = {"en": 90, "zh": 28}
"""Characters of a user's turn, as in the other written conversations."""
FRAMED = 0.2
"""Share of the wishes that begin or end with something beside the point: a greeting, thanks, "one question:"."""
TRIES = 40
"""Phrasings that a topic is put into before another topic is taken."""
Item = TypeVar("Item")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Topic:
    """What a wish is about, in the forms that its phrasings ask for, and the answer."""

    language: str
    category: str
    phrasings: str
    """The list of phrasings that it is put into."""
    forms: Mapping[str, str]
    answer: str
    weight: int


@dataclass(frozen=True, slots=True)
class Patterns:
    """What conversations are formed from; text in braces is a slot."""

    phrasings: Mapping[tuple[str, str], Sequence[str]]
    """Language and list -> phrasings."""
    topics: Sequence[Topic]
    words: Mapping[tuple[str, str], Sequence[str]]
    """Language and slot -> words, which may have slots of their own."""


@cache
def written_patterns() -> Patterns:
    """The project's own."""
    phrasings: dict[tuple[str, str], list[str]] = {}
    for record in records("patterns.jsonl"):
        phrasings.setdefault((record["language"], record["list"]), []).append(record["pattern"])
    words = {(record["language"], record["slot"]): record["words"] for record in records("patterns_words.jsonl")}
    return Patterns(phrasings, tuple(_topic(record) for record in records("patterns_topics.jsonl")), words)


def generated_conversations(count: int, seed: int = 0, topics: int | None = None) -> tuple[EverydayConversation, ...]:
    """`count` different conversations; a shorter list of the same seed is the beginning of a longer one.

    `topics` limits what they are about to the first so many of each category and language: the fewer there are, the more
    phrasings of each.

    None has a wording of the held-out wishes and pairs, and none is in `everyday_conversations`. Raises ValueError
    where there are no more different ones.
    """
    return tuple(islice(conversations(limited(written_patterns(), topics), seed), count))


def limited(patterns: Patterns, topics: int | None) -> Patterns:
    """The same with the first `topics` of each category and language; greetings and identity are left whole."""
    if topics is None:
        return patterns
    kept: list[Topic] = []
    met: Counter[tuple[str, str]] = Counter()
    for topic in patterns.topics:
        met[topic.category, topic.language] += 1
        if topic.category in ("greeting", "identity") or met[topic.category, topic.language] <= topics:
            kept.append(topic)
    return Patterns(patterns.phrasings, kept, patterns.words)


def conversations(patterns: Patterns, seed: int) -> Iterator[EverydayConversation]:
    """Different conversations without end, in the shares of `SHARES` and `LANGUAGES`."""
    chance = Random(f"everyday {seed}")
    sources = {
        (category, language): _Source(patterns, category, language, chance)
        for category in SHARES
        for language in LANGUAGES
    }
    wanted = {(category, language): SHARES[category] * LANGUAGES[language] for category, language in sources}
    given = dict.fromkeys(sources, 0)
    taken = {plain_text(turns.turns[-2][1]) for turns in everyday_conversations()}
    while True:
        behind = max(sources, key=lambda name: wanted[name] * (sum(given.values()) + 1) - given[name])
        given[behind] += 1
        yield sources[behind].next(taken)


def plain_text(text: str) -> str:
    """Letters and digits only, case ignored: what two wishes are compared by."""
    return "".join(filter(str.isalnum, text)).lower()


def opening(text: str) -> tuple[str, ...]:
    """The first three words of an English text that has more; nothing for any other text."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return tuple(words[:3]) if len(words) > 3 else ()


@cache
def held_out() -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Held-out wishes and users' turns of the test pairs as plain text, and the openings of the English ones."""
    texts = [wish.prompt for wish in behaviour_prompts()]
    for pair in written_pairs():
        if pair.split == "test":
            texts += [content for role, content in pair.turns if role == "user"]
    return frozenset(map(plain_text, texts)), frozenset(filter(None, map(opening, texts)))


def is_held_out(prompt: str) -> bool:
    """True where a wish is in, holds, or opens like one that nobody may train on."""
    texts, openings = held_out()
    plain = plain_text(prompt)
    return opening(prompt) in openings or any(plain in text or text in plain for text in texts)


class _Bag(Generic[Item]):
    """Draws each item once before any comes again, so that all are used about equally."""

    def __init__(self, items: Iterable[Item], chance: Random) -> None:
        self._items, self._chance, self._left = list(items), chance, list[Item]()

    def draw(self) -> Item:
        if not self._left:
            self._left = self._chance.sample(self._items, len(self._items))
        return self._left.pop()

    def __len__(self) -> int:
        return len(self._items)


class _Source:
    """The conversations of one category and language."""

    def __init__(self, patterns: Patterns, category: str, language: str, chance: Random) -> None:
        mine = [topic for topic in patterns.topics if (topic.category, topic.language) == (category, language)]
        self._topics = _Bag([topic for topic in mine for _ in range(topic.weight)], chance)
        lists = dict.fromkeys(topic.phrasings for topic in mine)
        self._phrasings = {name: _Bag(patterns.phrasings[language, name], chance) for name in lists}
        self._frames = _Bag(patterns.phrasings[language, "frame"], chance)
        self._words = {slot: words for (spoken, slot), words in patterns.words.items() if spoken == language}
        self._category, self._language, self._chance = category, language, chance

    def next(self, taken: set[str]) -> EverydayConversation:
        """One whose wish is not in `taken` yet, and is put there."""
        for _ in range(len(self._topics)):
            topic = self._topics.draw()
            for attempt in range(TRIES):
                prompt, answer = self._formed(topic, framed=attempt > 0 or self._chance.random() < FRAMED)
                plain = plain_text(prompt)
                if plain not in taken and len(prompt) <= USER_LIMIT[self._language] and not is_held_out(prompt):
                    taken.add(plain)
                    return EverydayConversation(
                        (("user", prompt), ("assistant", answer)), self._language, topic.category
                    )
        raise ValueError(f"there are no more different conversations of {self._category} in {self._language}")

    def _formed(self, topic: Topic, framed: bool) -> tuple[str, str]:
        """A wish and its answer. Greetings and identity have lists that are framed already."""
        drawn: dict[str, str] = dict(topic.forms)
        phrasing = self._phrasings[topic.phrasings].draw()
        prompt = self._filled(phrasing, drawn)
        if framed and topic.category not in ("greeting", "identity"):
            prompt = self._filled(self._frames.draw(), {"sentence": prompt})
        return prompt, self._filled(topic.answer, drawn)

    def _filled(self, text: str, drawn: dict[str, str]) -> str:
        """`text` with its slots filled; a slot keeps its word within a conversation, a capital letter carries over."""

        def word(match: re.Match[str]) -> str:
            slot = match[1][0].lower() + match[1][1:]
            if slot not in drawn:
                drawn[slot] = self._chance.choice(self._words[slot])
            drawn[slot] = self._filled(drawn[slot], drawn)
            return drawn[slot] if slot == match[1] else drawn[slot][0].upper() + drawn[slot][1:]

        return _SLOT.sub(word, text)


def _topic(record: dict[str, Any]) -> Topic:
    return Topic(
        record["language"],
        record["category"],
        record["list"],
        record["forms"],
        record["answer"],
        record.get("weight", 1),
    )
