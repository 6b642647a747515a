"""What people are asked, what they say, what is learnt from it, and how far they agree: records without a database.

The identity of a draft or comparison is a hash of what a person reads, so a stage that is run again recognises its own
work. Language, category and source are outside it: the same answer from two sources is judged once.

Not covered: a pair shown to the queue in the other order is another comparison.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import combinations
from typing import Literal, Self

Messages = tuple[tuple[str, str], ...]
"""Pairs of role and content."""
Action = Literal["accept", "edit", "reject"]
Chosen = Literal["first", "second", "equal"]

LONGEST_NAME = 64
SHORTEST_REASON = 3


class UnknownItem(LookupError):
    """Nothing of this identity is in the queue."""


class RefusedWord(ValueError):
    """A decision, choice or name that cannot be taken; the message tells the person who gave it why."""


def identify(messages: Messages, *answers: str) -> str:
    """First 16 hex digits of the sha256 of a conversation and the answers to it."""
    record = json.dumps([messages, answers], ensure_ascii=False)
    return hashlib.sha256(record.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def storable(text: str) -> bool:
    """Whether every database can keep a text: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def tidy(text: str) -> str:
    """What a person typed, without blanks around it, its lines ended as browsers end them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def check_annotator(name: str) -> str:
    """A name as it is kept, without blanks around it. Raises RefusedWord for one that cannot be kept."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise RefusedWord(f"a name has 1 to {LONGEST_NAME} printable characters")
    return name


def _check(identity: str, messages: Messages, *answers: str) -> None:
    """Raise ValueError where an item could not be shown or recognised."""
    if not messages or messages[-1][0] == "assistant":
        raise ValueError("an item for review needs messages that end with an open question, not with an answer")
    if not all(storable(text) for text in (*answers, *(text for message in messages for text in message))):
        raise ValueError("an item for review holds a NUL or half a surrogate pair: decode the answer anew or drop it")
    if identity != identify(messages, *answers):
        raise ValueError(f"identity {identity} does not belong to this content: make the record with `of`")


@dataclass(frozen=True)
class Draft:
    """An answer that waits for a person's yes, correction or no."""

    identity: str
    messages: Messages
    """The conversation up to the open question."""
    answer: str
    language: str
    category: str
    source: str
    """Provenance: `written by the project`, `drafted by MODEL at URL`. Annotators never see it."""

    def __post_init__(self) -> None:
        _check(self.identity, self.messages, self.answer)

    @classmethod
    def of(cls, messages: Messages, answer: str, language: str, category: str, source: str) -> Self:
        """A draft with the identity that its content gives. Raises ValueError for what cannot be shown."""
        return cls(identify(messages, answer), messages, answer, language, category, source)


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question, of which people say the better without knowing where they come from."""

    identity: str
    messages: Messages
    first: str
    second: str
    language: str
    category: str
    source: str

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError("the two answers of a comparison are the same: nobody can prefer one")
        _check(self.identity, self.messages, self.first, self.second)

    @classmethod
    def of(cls, messages: Messages, first: str, second: str, language: str, category: str, source: str) -> Self:
        """A comparison with the identity that its content gives. Raises ValueError for what cannot be shown."""
        return cls(identify(messages, first, second), messages, first, second, language, category, source)


@dataclass(frozen=True)
class Decision:
    """What one person said of a draft."""

    draft: Draft
    annotator: str
    action: Action
    answer: str
    """The answer as it shall be: the draft's where accepted, the person's where edited, empty where rejected."""
    reason: str
    at: datetime


@dataclass(frozen=True)
class Choice:
    """Which answer of a comparison one person preferred; `first` and `second` as stored, not as shown."""

    comparison: Comparison
    annotator: str
    chosen: Chosen
    reason: str
    at: datetime


@dataclass(frozen=True)
class Reviewed:
    """An answer fit for supervised fine-tuning, as a majority accepted or edited it."""

    draft: Draft
    answer: str
    annotators: tuple[str, ...]
    """Those who stand behind this answer."""
    provenance: str
    """The draft's source and what people did to it."""


@dataclass(frozen=True)
class Standing:
    """How far one draft is: what it came to, and how many people's last word on it is which."""

    outcome: Action | None
    """None while it waits: too few votes, or a tie."""
    accept: int
    edit: int
    reject: int


@dataclass(frozen=True)
class Preference:
    """A pair for the reward model, with the reasons of the people who preferred the chosen answer."""

    messages: Messages
    chosen: str
    rejected: str
    reason: str
    annotators: tuple[str, ...]
    language: str
    category: str
    source: str


@dataclass(frozen=True)
class Counts:
    """How far the review is."""

    waiting: int
    """Drafts and comparisons with too few votes or a tie."""
    accepted: int
    edited: int
    rejected: int
    compared: int
    """Comparisons with an outcome, `equal` among them."""
    annotators: int
    """People whose word counts on something."""


@dataclass(frozen=True)
class RaterAgreement:
    """How far people agree on the items that at least two of them judged; None where there is nothing to say."""

    items: int
    percent: float | None
    """Pairs of people on one item who said the same, of all such pairs."""
    kappa: float | None
    """Agreement beyond chance: 1 is perfect, 0 is chance. None too where all always said the same one thing."""
    statistic: Literal["Cohen", "Fleiss"] | None


@dataclass(frozen=True)
class Agreement:
    """Agreement on drafts (accept, edit, reject) and on comparisons (first, second, equal)."""

    decisions: RaterAgreement
    choices: RaterAgreement


def measure_agreement(items: Iterable[Mapping[str, str]]) -> RaterAgreement:
    """Pairwise agreement and kappa of items, each given as annotator → label.

    Two people in all: Cohen's kappa (1960), chance from each person's own habits. More: Fleiss' kappa (1971), chance
    from everybody's labels together, in the form for unequal numbers of ratings: an item's agreement is that of its
    own pairs, and items weigh the same. The percentage weighs pairs the same.
    """
    shared = [labels for labels in items if len(labels) > 1]
    if not shared:
        return RaterAgreement(0, None, None, None)
    pairs = [a == b for labels in shared for a, b in combinations(labels.values(), 2)]
    percent = 100 * sum(pairs) / len(pairs)
    people = sorted({person for labels in shared for person in labels})
    statistic: Literal["Cohen", "Fleiss"] = "Cohen" if len(people) == 2 else "Fleiss"
    if statistic == "Cohen":
        one, other = (Counter(labels[person] for labels in shared) for person in people)
        observed = Fraction(sum(pairs), len(pairs))
        chance = Fraction(sum(one[label] * other[label] for label in one), len(shared) ** 2)
    else:
        votes = Counter(label for labels in shared for label in labels.values())
        observed = sum((_within(labels) for labels in shared), Fraction(0)) / len(shared)
        chance = Fraction(sum(count**2 for count in votes.values()), votes.total() ** 2)
    kappa = None if chance == 1 else float((observed - chance) / (1 - chance))
    return RaterAgreement(len(shared), percent, kappa, statistic)


def _within(labels: Mapping[str, str]) -> Fraction:
    """Share of an item's pairs of people that agree."""
    number = len(labels)
    same = sum(count * (count - 1) for count in Counter(labels.values()).values())
    return Fraction(same, number * (number - 1))
