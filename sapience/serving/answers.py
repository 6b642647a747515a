"""The text of one answer while its tokens come: what may be shown already, where a stop string ends it, which tokens say it.

A text that is given out is never taken back: an end that may be the beginning of a stop string waits until it is known not
to be one. The pieces together are the same however the tokens are batched.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sapience.inference.requests import Token
from sapience.serving.tool_calls import CallParser, ToolCall


class Decoder(Protocol):
    """Tokens to text, as `AnswerStream` and `TextStream` do it."""

    def push(self, token: int) -> str: ...

    def end(self) -> str: ...


@dataclass
class Said:
    """What is new of an answer."""

    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[tuple[Token, int]] = field(default_factory=list)
    """Those that say it, each with where it begins in the answer's text."""

    def add(self, other: "Said") -> None:
        """What came next."""
        self.text += other.text
        self.calls += other.calls
        self.tokens += other.tokens

    def __bool__(self) -> bool:
        return bool(self.text or self.calls or self.tokens)


class StopText:
    """Text up to where the first of some strings is complete, without that string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=1)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What is certain now."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            cut = min(found)[1]
            given, self._held = self._held[:cut], ""
            return given
        keep = self._beginning_of_a_stop()
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def end(self) -> str:
        """What waited, since nothing more comes."""
        given, self._held = self._held, ""
        return given

    def _beginning_of_a_stop(self) -> int:
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


class Choice:
    """One answer of a request."""

    def __init__(self, decoder: Decoder, eos: int, stops: Sequence[str], calls: CallParser | None) -> None:
        """`calls`: looks for function calls, where there are functions."""
        self._decoder, self._eos = decoder, eos
        self._stop = StopText(stops)
        self._calls = calls
        self._waiting: deque[tuple[Token, int]] = deque()
        self._decoded = 0
        self._given = 0
        self.drawn = 0
        """Tokens, the closing one included."""
        self.finish: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is wanted of it."""
        return self.finish is not None

    def push(self, token: Token) -> Said:
        """What the next token adds. Sets `finish` where a stop string came to its end."""
        if self.ended:
            return Said()
        self.drawn += 1
        if token.id == self._eos:
            return Said()
        self._waiting.append((token, self._decoded))
        text = self._decoder.push(token.id)
        self._decoded += len(text)
        said = self._said(self._stop.push(text))
        if self._stop.stopped:
            said.add(self._close("stop"))
        return said

    def end(self, finish: str) -> Said:
        """What waited; nothing more comes."""
        if self.ended:
            return Said()
        said = self._said(self._stop.push(self._decoder.end()))
        if not self._stop.stopped:
            said.add(self._said(self._stop.end()))
        said.add(self._close("stop" if self._stop.stopped else finish))
        return said

    def _close(self, finish: str) -> Said:
        said = Said()
        if self._calls is not None:
            said.text = self._calls.end()
        said.tokens = [entry for entry in self._waiting if entry[1] < self._given or not self._stop.stopped]
        self._waiting.clear()
        called = self._calls is not None and self._calls.found and finish == "stop"
        self.finish = "tool_calls" if called else finish
        return said

    def _said(self, text: str) -> Said:
        """Text that is certain, with the tokens that lie wholly in it."""
        self._given += len(text)
        said = Said(text)
        while len(self._waiting) > 1 and self._waiting[0][1] < self._given >= self._waiting[1][1]:
            said.tokens.append(self._waiting.popleft())
        if self._calls is not None:
            said.text, said.calls = self._calls.push(text)
        return said
