"""A training conversation with where it came from, and files of them.

One JSON object a line. A line that cannot be used is put aside with its reason and counted, never fatal, never silently
lost. Everything that a model generated keeps its kind and its source through the whole run.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sapience.corpus.chat import Message, check_order
from sapience.posttraining.user_lines import read_lines
from sapience.problems.user_files import json_object
from sapience.recipe.errors import UserError
from sapience.run import write_atomically

Kind = Literal["demonstration", "original", "reasoned", "everyday", "own"]


@dataclass(frozen=True)
class Sample:
    """A conversation that ends with the answer to be learned."""

    messages: tuple[Message, ...]
    kind: Kind
    """What it is: a problem's own answer, V3's two kinds of distilled samples, an everyday answer, a user's own."""
    source: str
    """Who wrote the answer: a file, a model of the run, a person."""
    domain: str = ""
    family: str = ""
    language: str = ""

    @property
    def identity(self) -> str:
        """16 hexadecimal digits of the conversation's content."""
        content = json.dumps([(m.role, m.content) for m in self.messages], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def answer(self) -> str:
        """The last turn."""
        return self.messages[-1].content

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        messages = [{"role": m.role, "content": m.content} for m in self.messages]
        return {
            "messages": messages, "kind": self.kind, "source": self.source, "domain": self.domain,
            "family": self.family, "language": self.language,
        }  # fmt: skip


@dataclass
class Loaded:
    """What a file of samples gave."""

    samples: list[Sample]
    bad: list[str]
    """Reasons, each with its line number."""


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """One JSON object a line, in one move."""
    write_atomically(path, "".join(json.dumps(s.record(), ensure_ascii=False) + "\n" for s in samples))


def read_samples(path: Path) -> list[Sample]:
    """Samples that `write_samples` wrote. Raises UserError for a file that cannot be read and for one with a line that it
    did not write."""
    samples, bad = read_lines(path, _written, "sample", "that its stage is made", '{"messages": [...], "kind": "…"}')
    if bad:
        raise UserError(f"{path} is not as the run wrote it ({bad[0]}): delete {path.parent} and run again")
    return samples


def load_samples(path: Path, source: str) -> Loaded:
    """Samples of a user's own, from `source`, whatever a record says of its kind and source.

    Layouts: `messages` (role, content), ShareGPT's `conversations` (from, value), Alpaca's `instruction`, `input`,
    `output`, and plain `prompt` with `answer` (or `response`, `completion`). Raises UserError for a missing file and for
    one without a usable line.
    """
    samples, bad = read_lines(
        path,
        lambda line: _sample(json_object(line), "own", source),
        "sample",
        "the path in the recipe",
        '{"messages": [...]}',
    )
    return Loaded(samples, bad)


def messages_of(record: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation in a record of any known layout. Raises ValueError with the reason where there is none."""
    if "messages" in record:
        turns = [(_text(t, "role"), _text(t, "content")) for t in _turns(record, "messages")]
    elif "conversations" in record:
        roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
        turns = [(roles.get(_text(t, "from"), "?"), _text(t, "value")) for t in _turns(record, "conversations")]
        if record.get("system"):
            turns = [("system", _text(record, "system")), *turns]
    elif "instruction" in record:
        extra = record.get("input") or ""
        if not isinstance(extra, str):
            raise ValueError("'input' is no text")
        question = _text(record, "instruction") + (f"\n\n{extra}" if extra else "")
        turns = [("user", question), ("assistant", _text(record, "output"))]
    else:
        answer = next((name for name in ("answer", "response", "completion") if name in record), "answer")
        turns = [("user", _text(record, "prompt")), ("assistant", _text(record, answer))]
    messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    check_order(messages)
    return messages


def _written(line: bytes) -> Sample:
    record = json_object(line)
    kind = record.get("kind")
    if kind not in get_args(Kind):
        raise ValueError(f"kind {kind!r} is unknown")
    return _sample(record, cast("Kind", kind), _text(record, "source"))


def _sample(record: dict[str, Any], kind: Kind, source: str) -> Sample:
    messages = messages_of(record)
    if messages[-1].role != "assistant":
        raise ValueError("the last turn is not the assistant's")
    named = {name: record.get(name) for name in ("domain", "family", "language")}
    return Sample(messages, kind, source, **{k: value if isinstance(value, str) else "" for k, value in named.items()})


def _turns(record: dict[str, Any], name: str) -> Sequence[dict[str, Any]]:
    turns = record[name]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"'{name}' is no list of turns")
    return turns


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' is missing or empty")
    return value


def unique(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Each conversation once, the first of equal ones."""
    seen: set[str] = set()
    for sample in samples:
        if sample.identity not in seen:
            seen.add(sample.identity)
            yield sample
