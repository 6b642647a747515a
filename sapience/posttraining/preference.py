"""Preference pairs with the reason for the preference, from several sources, and how they are kept apart.

DeepSeek-V3 trains its reward model on preference data that also holds the reasoning that leads to the reward (report,
section 5.2.1): every pair here carries a reason in words, which stays in the data beside the pair. Sources are pairs that
come with sapience, comparisons by people, files of a user's own, and right and wrong answers that a model drew
(`drawn_pairs`). A prompt is held out or learned from, never both, wherever its pairs come from.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sapience.corpus.chat import Message, check_order
from sapience.problems.everyday import WrittenPair
from sapience.review.records import Preference
from sapience.run import write_atomically

WRITTEN = "written by the project"
PairKind = Literal["written", "people", "file", "drawn", "wish", "formed"]


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one conversation, the better one named."""

    messages: tuple[Message, ...]
    """The conversation up to the user's last message."""
    chosen: str
    rejected: str
    reason: str
    source: str
    """Who preferred: the project, people, a file, rules."""
    category: str
    language: str
    test: bool
    """Held out: accuracy is measured on it and nothing is learned from it."""
    kind: PairKind
    """Where it comes from; `drawn` are answers to problems, `wish` and `formed` answers to formed wishes,
    drawn by the model or taken from another wish."""

    def __post_init__(self) -> None:
        check_order(self.messages)
        if self.messages[-1].role != "user":
            raise ValueError("a pair answers a user's message: the last one is not a user's")
        if self.chosen == self.rejected:
            raise ValueError("the two answers are the same: nobody can prefer one")

    def conversation(self, answer: str) -> tuple[Message, ...]:
        """The messages with one of the answers behind them."""
        return (*self.messages, Message("assistant", answer))

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


@dataclass
class PairSet:
    """Pairs, each prompt on one side, and what was left out."""

    pairs: list[PreferencePair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """By reason."""

    @property
    def learned(self) -> list[PreferencePair]:
        """Those that are learned from."""
        return [pair for pair in self.pairs if not pair.test]

    @property
    def held_out(self) -> list[PreferencePair]:
        """Those that are measured on."""
        return [pair for pair in self.pairs if pair.test]


def prompt_hash(messages: Sequence[Message]) -> str:
    """Sha256 of a conversation, runs of white space made one blank, so that a line wrap does not change the side."""
    content = json.dumps([(m.role, " ".join(m.content.split())) for m in messages], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()


def is_held_out(messages: Sequence[Message], share: float) -> bool:
    """Whether a prompt is among the `share` that is measured on: a function of its text alone."""
    return int(prompt_hash(messages)[:8], 16) < share * 0x1_0000_0000


def assembled(pairs: Iterable[PreferencePair]) -> PairSet:
    """Each pair once; of two that contradict one another the first; prompts that are held out anywhere held out in all.

    Written pairs have a split of their own, so the hash alone does not keep a prompt on one side.
    """
    kept: dict[tuple[str, str, str], PreferencePair] = {}
    left_out: Counter[str] = Counter()
    for pair in pairs:
        prompt = prompt_hash(pair.messages)
        if (prompt, pair.chosen, pair.rejected) in kept:
            left_out["the same pair again"] += 1
        elif (prompt, pair.rejected, pair.chosen) in kept:
            left_out["contradicts an earlier pair"] += 1
        else:
            kept[prompt, pair.chosen, pair.rejected] = pair
    measured = {prompt for (prompt, _, _), pair in kept.items() if pair.test}
    return PairSet([replace(pair, test=prompt in measured) for (prompt, _, _), pair in kept.items()], left_out)


def pairs_of_the_project(written: Iterable[WrittenPair]) -> list[PreferencePair]:
    """The pairs that come with sapience, with their own split: test phrasings are unlike all training phrasings."""
    return [
        PreferencePair(
            tuple(Message(role, content) for role, content in pair.turns),  # type: ignore[arg-type]
            pair.chosen,
            pair.rejected,
            pair.reason,
            WRITTEN,
            pair.category,
            pair.language,
            pair.split == "test",
            "written",
        )
        for pair in written
    ]


def pairs_of_people(preferences: Iterable[Preference], held_out: float) -> tuple[list[PreferencePair], list[str]]:
    """What a majority in the review queue preferred, with their reasons, and why some of it cannot be used.

    A queue may be shared with others, who ask in ways that no chat model is asked.
    """
    pairs: list[PreferencePair] = []
    bad: list[str] = []
    for said in preferences:
        messages = tuple(Message(role, content) for role, content in said.messages)  # type: ignore[arg-type]
        source = f"{said.source}; compared by {', '.join(said.annotators)}"
        try:
            test = is_held_out(messages, held_out)
            pairs.append(
                PreferencePair(
                    messages,
                    said.chosen,
                    said.rejected,
                    said.reason,
                    source,
                    said.category,
                    said.language,
                    test,
                    "people",
                )
            )
        except ValueError as error:
            bad.append(str(error))
    return pairs, bad


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """One JSON object a line, in one move."""
    write_atomically(path, "".join(json.dumps(pair.record(), ensure_ascii=False) + "\n" for pair in pairs))


def read_pairs(path: Path) -> list[PreferencePair]:
    """Pairs that `write_pairs` wrote."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [
        PreferencePair(**(record | {"messages": tuple(Message(**turn) for turn in record["messages"])}))
        for record in records
    ]
