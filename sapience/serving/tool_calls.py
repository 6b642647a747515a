"""Function calls in DeepSeek-V3's form: how they are described to a model, written in its prompt and read in its answers.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
    ```json
    {"argument": 1}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

as in the release's chat template, results between <｜tool▁outputs▁begin｜> and <｜tool▁outputs▁end｜>, after which the
assistant goes on without its mark. A marker that the tokenizer has no token for is written as text. The release closes the
list of calls behind the second one only, which a single call never reaches; here it is always closed. How functions are
described is not part of that template; the words here are ours, and a model has to be taught to heed them.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sapience.corpus.tokenizer import Tokenizer

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
OUTPUTS_BEGIN, OUTPUTS_END = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
OUTPUT_BEGIN, OUTPUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"
FENCE_BEGIN, FENCE_END = "\n```json\n", "\n```"

_CALL = re.compile(
    rf"\s*{CALL_BEGIN}function{SEPARATOR}([^\n]{{1,256}}){FENCE_BEGIN}(.*?){FENCE_END}\s*{CALL_END}", re.DOTALL
)


@dataclass(frozen=True)
class ToolCall:
    """A call that the assistant makes or made."""

    name: str
    arguments: str
    """JSON, if the model or its grammar took care."""
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


@dataclass(frozen=True)
class Marker:
    """A special token's name, as against text that spells it."""

    name: str


Piece = Marker | str


def described(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of the functions."""
    listed = "\n\n".join(f"```json\n{json.dumps(tool, ensure_ascii=False)}\n```" for tool in tools)
    return (
        "You can call functions. To call some, end the answer with a list of calls in exactly this form, the arguments "
        f"being one JSON object that fits the function's parameters:\n{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}NAME"
        f'{FENCE_BEGIN}{{"argument": "value"}}{FENCE_END}{CALL_END}{CALLS_END}\nThe functions are:\n\n{listed}'
    )


def calls_written(calls: Sequence[ToolCall]) -> list[Piece]:
    """Calls in the prompt, as an answer has them."""
    pieces: list[Piece] = [Marker(CALLS_BEGIN)]
    for place, call in enumerate(calls):
        text = f"{call.name}{FENCE_BEGIN}{call.arguments}{FENCE_END}"
        pieces += ["\n" * bool(place), Marker(CALL_BEGIN), "function", Marker(SEPARATOR), text, Marker(CALL_END)]
    return [*pieces, Marker(CALLS_END)]


def outputs_written(outputs: Sequence[str]) -> list[Piece]:
    """What the called functions gave back."""
    pieces: list[Piece] = [Marker(OUTPUTS_BEGIN)]
    for place, output in enumerate(outputs):
        pieces += ["\n" * bool(place), Marker(OUTPUT_BEGIN), output, Marker(OUTPUT_END)]
    return [*pieces, Marker(OUTPUTS_END)]


def tokens_of(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    """Markers as their tokens where there are such, everything else as text, neighbours joined."""
    tokens: list[int] = []
    text = ""
    for piece in pieces:
        if isinstance(piece, Marker) and piece.name in tokenizer.special:
            tokens += [*(tokenizer.encode(text) if text else []), tokenizer.special[piece.name]]
            text = ""
        else:
            text += piece.name if isinstance(piece, Marker) else piece
    return [*tokens, *(tokenizer.encode(text) if text else [])]


class CallParser:
    """Finds calls in an answer's text while it comes. What is not in their form stays text."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._done = False
        self.found = 0

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text that is certainly no call, and the calls that are complete now."""
        if self._done or not text:
            return "", []
        searched = max(0, len(self._held) - len(CALL_END)) if self._inside else 0
        self._held += text
        given = "" if self._inside else self._text_before()
        calls: list[ToolCall] = []
        while self._inside and self._held.find(CALL_END, 0 if calls else searched) >= 0:
            call = _CALL.match(self._held)
            if call is None:
                return given + self._as_text(), calls
            calls.append(ToolCall(call[1], call[2]))
            self._held = self._held[call.end() :]
            self.found += 1
        if self.found and self._inside and CALLS_END in self._held:
            self._held, self._done = "", True
        return given, calls

    def end(self) -> str:
        """What waited: a call that never came to its end is text."""
        if self._inside and not self.found:
            return self._as_text()
        given = "" if self._inside else self._held
        self._held, self._done = "", True
        return given

    def _text_before(self) -> str:
        """Text before the list of calls, but for an end that may begin it."""
        at = self._held.find(CALLS_BEGIN)
        if at >= 0:
            given, self._held, self._inside = self._held[:at], self._held[at + len(CALLS_BEGIN) :], True
            return given
        longest = min(len(CALLS_BEGIN) - 1, len(self._held))
        keep = next((n for n in range(longest, 0, -1) if CALLS_BEGIN.startswith(self._held[-n:])), 0)
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def _as_text(self) -> str:
        """The rest is shown as it is: what was taken for calls is none."""
        text = ("" if self.found else CALLS_BEGIN) + self._held
        self._held, self._inside = "", False
        self._done = bool(self.found)
        return "" if self.found else text
