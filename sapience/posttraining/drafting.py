"""Everyday answers drafted by a general model: raw material for people, who accept, edit or reject each of them.

Every reply is kept in `drafts.partial.jsonl` as soon as it is there, those that are of no use too, so that a kill loses
at most the one under way and nothing is asked, or paid for, twice. A reply answers one exact request: with another
wish, model, temperature or seed it is asked for again. `drafts.jsonl` holds the usable ones as samples.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapience.corpus.chat import Message
from sapience.corpus.normalizing import language_of
from sapience.posttraining.general_model import GeneralModel, Reply, Unavailable
from sapience.posttraining.samples import Sample, write_samples
from sapience.problems.everyday import everyday_conversations
from sapience.problems.user_files import json_object
from sapience.recipe.distill import GeneratorSection
from sapience.recipe.errors import UserError
from sapience.review.records import tidy
from sapience.run import ProgressFactory

REPLIES = "drafts.partial.jsonl"
DRAFTS = "drafts.jsonl"
MOST_FAILURES = 5
"""Wishes in a row without an answer after which the server is taken to be out of order."""
LEAST_CERTAINTY = 0.5
"""Of the language of a user's own wish, for it to be named."""


@dataclass(frozen=True)
class Drafted:
    """What the general model gave."""

    samples: list[Sample]
    failed: int
    """Wishes for which the server gave no answer in three attempts."""
    left_out: dict[str, int]
    """Answers of no use, by reason: empty, cut off, not text, filtered by the server."""


@dataclass(frozen=True)
class _Wish:
    messages: tuple[Message, ...]
    family: str
    language: str

    def seed(self, seed: int) -> int:
        """Differs from wish to wish and does not depend on their order."""
        content = json.dumps([seed, [(m.role, m.content) for m in self.messages]])
        return int(hashlib.sha256(content.encode()).hexdigest()[:8], 16) >> 1


def draft_everyday(section: GeneratorSection, seed: int, folder: Path, progress: ProgressFactory) -> Drafted:
    """Ask for an answer to every wish and write the usable ones to `folder/drafts.jsonl`; goes on where it was killed.

    Raises UserError for a server that cannot be reached, refuses, or fails on five wishes in a row; what was drafted
    until then is kept.
    """
    wishes = _wishes(section)
    replies = _kept_replies(folder / REPLIES)
    failed = in_a_row = 0
    answered: list[tuple[_Wish, Reply]] = []
    with (
        GeneralModel(section) as model,
        open(folder / REPLIES, "ab") as file,
        progress(f"drafts by {section.model}", len(wishes)) as bar,
    ):
        for wish in wishes:
            request = _identity(wish, section, model.address, seed)
            if request not in replies:
                try:
                    reply = model.answer(wish.messages, wish.seed(seed))
                except Unavailable as error:
                    failed, in_a_row = failed + 1, in_a_row + 1
                    if in_a_row == MOST_FAILURES:
                        raise UserError(
                            f"the general model at {model.address} failed on {in_a_row} wishes in a row, each {error}; "
                            "see what ails it and run again: the drafts made so far are kept"
                        ) from None
                    bar.advance(1, failed=failed)
                    continue
                replies[request] = reply
                file.write(
                    json.dumps({"request": request, "text": reply.text, "finish": reply.finish}).encode() + b"\n"
                )
                file.flush()
                os.fsync(file.fileno())
            in_a_row = 0
            answered.append((wish, replies[request]))
            bar.advance(1)
        source = f"drafted by {section.model} at {model.address}"
    samples = []
    left_out: Counter[str] = Counter()
    for wish, reply in answered:
        text = tidy(reply.text or "")
        if reason := _useless(reply, text):
            left_out[reason] += 1
        else:
            turns = (*wish.messages, Message("assistant", text))
            samples.append(Sample(turns, "everyday", source, family=wish.family, language=wish.language))
    write_samples(folder / DRAFTS, samples)
    return Drafted(samples, failed, dict(left_out))


def _useless(reply: Reply, text: str) -> str:
    """Why an answer cannot be learned from; empty where it can."""
    if reply.finish == "content_filter":
        return "filtered by the server"
    if reply.finish == "length":
        return "cut off"
    if reply.text is None:
        return "not text"
    return "" if text else "empty"


def _wishes(section: GeneratorSection) -> Sequence[_Wish]:
    """Different wishes in their order, at most as many as the recipe wants."""
    unique: dict[tuple[Message, ...], _Wish] = {}
    for wish in _own(section.prompts) if section.prompts else _written():
        if len(unique) == section.limit:
            break
        unique.setdefault(wish.messages, wish)
    return list(unique.values())


def _own(prompts: Sequence[str]) -> Iterator[_Wish]:
    for prompt in prompts:
        language, certainty = language_of(prompt)
        yield _Wish((Message("user", prompt),), "drafted", language if certainty >= LEAST_CERTAINTY else "")


def _written() -> Iterator[_Wish]:
    """What the everyday conversations begin with: the user's first turn, behind a system message where there is one."""
    for conversation in everyday_conversations():
        end = next(place for place, (role, _) in enumerate(conversation.turns) if role == "user") + 1
        turns = tuple(Message(role, content) for role, content in conversation.turns[:end])  # type: ignore[arg-type]
        yield _Wish(turns, conversation.category, conversation.language)


def _identity(wish: _Wish, section: GeneratorSection, address: str, seed: int) -> str:
    """16 hex digits of all that a reply depends on."""
    turns = [(message.role, message.content) for message in wish.messages]
    parts = [address, section.model, section.temperature, section.answer_tokens, wish.seed(seed), turns]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _kept_replies(path: Path) -> dict[str, Reply]:
    """What earlier sessions were answered, by request. A last line that a kill cut in two is taken off the file."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    replies = {}
    for line in content[:whole].splitlines():
        try:
            record = json_object(line)
        except ValueError:
            continue
        request, text, finish = (record.get(name) for name in ("request", "text", "finish"))
        if isinstance(request, str) and isinstance(finish, str) and (text is None or isinstance(text, str)):
            replies[request] = Reply(text, finish)
    return replies
