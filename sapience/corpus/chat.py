"""How a conversation becomes tokens: one rendering for training, sampling, scoring and serving.

    <bos>{system}<｜User｜>{question}<｜Assistant｜>{answer}<eos><｜User｜>…

as in DeepSeek-V3's release. A tokenizer without the two role tokens gets the words of DeepSeek-V2's template instead
("User: …\n\nAssistant: …"). Rendering only ever appends: turn n is a prefix of turn n+1, and text that spells a special
token stays text. It stands beside the tokenizer, whose special tokens it knows, since evaluation and serving need it as
much as training does. Tool calls are not covered.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sapience.corpus.tokenizer import ASSISTANT, CONFIG, USER, Tokenizer

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens."""

    tokens: list[int]
    learn: list[bool]
    """True for what the assistant says, its closing eos included."""


class ChatFormat:
    """The rendering of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        special = tokenizer.special
        if USER in special and ASSISTANT in special:
            self.user, self.assistant, self._named = [special[USER]], [special[ASSISTANT]], True
        else:
            self.user, self.assistant = tokenizer.encode("User: "), tokenizer.encode("\n\nAssistant:")
            self._named = False

    @property
    def template(self) -> str:
        """The same rendering as a Hugging Face chat template."""
        return jinja_template(self._named)

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """All turns. Raises ValueError where they are not: a system message or none, then user and assistant in turn."""
        check_order(messages)
        tokens, learn = [self.tokenizer.bos_id], [False]
        for message, content in zip(messages, self._contents(messages), strict=True):
            if message.role == "system":
                piece, learned = content, False
            elif message.role == "user":
                piece, learned = self.user + content, False
            else:
                tokens += self.assistant
                learn += [False] * len(self.assistant)
                piece, learned = [*content, self.tokenizer.eos_id], True
            tokens += piece
            learn += [learned] * len(piece)
        return Rendered(tokens, learn)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The turns so far and the mark after which the assistant speaks. Raises ValueError unless a user spoke last."""
        if not messages or messages[-1].role != "user":
            raise ValueError("the assistant can answer a user's message only: let one be the last")
        return self.conversation(messages).tokens + self.assistant

    def answer(self, text: str) -> list[int]:
        """What the assistant has to say after `prompt` in order to say `text`."""
        return [*self._contents([Message("assistant", text)])[0], self.tokenizer.eos_id]

    def text(self, tokens: Sequence[int]) -> str:
        """The answer that drawn tokens spell, without its end."""
        kept = [token for token in tokens if token != self.tokenizer.eos_id]
        return self.tokenizer.decode(kept).removeprefix("" if self._named else " ")

    def _contents(self, messages: Sequence[Message]) -> list[list[int]]:
        texts = []
        for message in messages:
            space = " " if message.role == "assistant" and not self._named else ""
            end = "\n\n" if message.role == "system" and not self._named else ""
            texts.append(space + message.content + end)
        return self.tokenizer.encode_batch(texts)


def check_order(messages: Sequence[Message]) -> None:
    """Raises ValueError where the roles do not alternate as a chat model expects."""
    turns = [message.role for message in messages]
    if turns[:1] == ["system"]:
        turns = turns[1:]
    wanted = ["user" if place % 2 == 0 else "assistant" for place in range(len(turns))]
    if not turns or turns != wanted:
        raise ValueError(
            f"the roles are {', '.join(m.role for m in messages) or 'none'}: a conversation is an optional system "
            "message, then user and assistant in turn"
        )


def jinja_template(named: bool) -> str:
    """The same rendering as a Hugging Face chat template, for `tokenizer_config.json`."""
    user, before, after = (USER, ASSISTANT, "") if named else ("User: ", "\\n\\nAssistant:", " ")
    end_of_system = "" if named else " + '\\n\\n'"
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content']" + end_of_system + " }}"
        "{% elif message['role'] == 'user' %}{{ '" + user + "' + message['content'] }}"
        "{% else %}{{ '" + before + after + "' + message['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + before + "' }}{% endif %}"
    )


def has_chat_template(folder: Path) -> bool:
    """Whether a Hugging Face folder says how to render conversations: its model was taught to answer."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))
