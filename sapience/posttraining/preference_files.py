"""Files of a user's own preference pairs, in our layout and in those of the hub's preference data sets.

A line that cannot be used is put aside with its reason and counted, never fatal, never silently lost. Not covered:
rankings of more than two answers, and whole dialogues in one text with role marks inside.
"""

from pathlib import Path
from typing import Any

from sapience.corpus.chat import Message
from sapience.posttraining.preference import PreferencePair, is_held_out
from sapience.posttraining.user_lines import read_lines
from sapience.problems.user_files import json_object
from sapience.review.records import storable

NO_REASON = "No reason was given."


def load_pairs(path: Path, held_out: float) -> tuple[list[PreferencePair], list[str]]:
    """Pairs of a user's file, and why lines could not be used, each with its number.

    A line has `chosen` and `rejected`, each a text or, as on the hub, a list of messages that ends with the assistant's;
    the conversation before them stands in `prompt` (a text or messages) or `messages`, or in both lists. `reason`,
    `category` and `language` may be there. Raises UserError for a missing file and for one without a usable line.
    """
    return read_lines(
        path,
        lambda line: _pair(json_object(line), path.stem, held_out),
        "pair",
        "reward.pairs",
        '{"prompt": …, "chosen": …, "rejected": …}',
    )


def _pair(record: dict[str, Any], name: str, held_out: float) -> PreferencePair:
    """Raises ValueError with the reason why a line is no pair."""
    before = _turns(record.get("messages") or record.get("prompt") or [], "user")
    (chosen_before, chosen), (rejected_before, rejected) = (_answer(record, side) for side in ("chosen", "rejected"))
    if chosen_before != rejected_before:
        raise ValueError("'chosen' and 'rejected' answer different conversations")
    begins_anew = bool(chosen_before) and chosen_before[0].role != "assistant"
    messages = chosen_before if begins_anew else (*before, *chosen_before)
    if not messages:
        raise ValueError("'prompt' is missing or empty")
    texts = {key: record.get(key) or default for key, default in _DEFAULTS.items()}
    texts["category"] = texts["category"] or name
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("'reason', 'category' and 'language' have to be texts")
    if not storable("".join((chosen, rejected, *texts.values(), *(m.content for m in messages)))):
        raise ValueError("a text holds a NUL or half a surrogate pair")
    test = is_held_out(messages, held_out)
    return PreferencePair(messages, chosen, rejected, source=name, test=test, kind="file", **texts)


_DEFAULTS = {"reason": NO_REASON, "category": "", "language": ""}


def _answer(record: dict[str, Any], name: str) -> tuple[tuple[Message, ...], str]:
    """The turns before an answer, if it is told as a list, and the answer."""
    turns = _turns(record.get(name), "assistant")
    if not turns or turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise ValueError(f"'{name}' is missing, empty or does not end with the assistant's answer")
    return turns[:-1], turns[-1].content


def _turns(value: Any, role: str) -> tuple[Message, ...]:
    """A text as the one turn of `role`, a list of messages as they are."""
    if isinstance(value, str):
        return (Message(role, value),) if value.strip() else ()  # type: ignore[arg-type]
    turns = value if isinstance(value, list) else []
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise ValueError("a message is no object of 'role' and 'content'")
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)
