"""Answers in the form of OpenAI's two APIs: whole, and as chunks of a stream.

A function call is one chunk: it is given out when it is complete and known to have the form of a call. Log-probabilities
are those of the model's own distribution, in nats; the one of an impossible token is -9999. The completions API's have `bytes`
beside `tokens`, since a token may be a part of a character. Predicted tokens are those that the model drafts itself; what the
last step of an answer drafted may be missing.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from sapience.corpus.tokenizer import Tokenizer
from sapience.inference.requests import Token
from sapience.serving.answers import Choice, Said
from sapience.serving.drawing import Drawing
from sapience.serving.tool_calls import ToolCall

LEAST_LOGPROB = -9999.0


class Form(Protocol):
    """One of the two APIs."""

    def chunks(self, answer: int, said: Said, finish: str | None) -> list[dict[str, Any]]:
        """What is new of an answer, in a stream."""

    def whole(self, answers: Sequence[tuple[Said, str]], usage: dict[str, Any]) -> dict[str, Any]:
        """All answers, complete, each with how it ended."""

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """A stream's last chunk, where it was asked for."""


def usage_of(drawing: Drawing, choices: Sequence[Choice]) -> dict[str, Any]:
    """Numbers of tokens; an answer's closing one counts."""
    prompt, drawn = drawing.wanted.prompt_tokens, sum(choice.drawn for choice in choices)
    accepted, rejected = drawing.predicted
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
        "prompt_tokens_details": {"cached_tokens": drawing.cached},
        "completion_tokens_details": {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected},
    }


class Reply:
    """What every reply and chunk of one request has."""

    def __init__(self, prefix: str, name: str, model: str, tells_usage: bool) -> None:
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self._name, self._model, self._tells_usage = name, model, tells_usage
        self._created = int(time.time())

    def frame(self, choices: list[dict[str, Any]], chunk: bool) -> dict[str, Any]:
        """Around the answers."""
        name = f"{self._name}.chunk" if chunk and self._name == "chat.completion" else self._name
        made = {"id": self.id, "object": name, "created": self._created, "model": self._model, "choices": choices}
        return made | ({"usage": None} if chunk and self._tells_usage else {})

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        return self.frame([], True) | {"usage": usage}


class ChatForm(Reply):
    """/v1/chat/completions."""

    def __init__(self, tokenizer: Tokenizer, model: str, tells_usage: bool, logprobs: bool) -> None:
        super().__init__("chatcmpl", "chat.completion", model, tells_usage)
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._calls: dict[int, int] = {}
        self._begun: set[int] = set()

    def chunks(self, answer: int, said: Said, finish: str | None) -> list[dict[str, Any]]:
        made = []
        if answer not in self._begun:
            self._begun.add(answer)
            made.append(self._chunk(answer, {"role": "assistant", "content": ""}))
        if said.text or (said.tokens and self._logprobs):
            made.append(self._chunk(answer, {"content": said.text}, said.tokens))
        for call in said.calls:
            place = self._calls.setdefault(answer, 0)
            self._calls[answer] += 1
            made.append(self._chunk(answer, {"tool_calls": [{"index": place, **_call(call)}]}))
        if finish is not None:
            made.append(self._chunk(answer, {}, finish=finish))
        return made

    def whole(self, answers: Sequence[tuple[Said, str]], usage: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, (said, finish) in enumerate(answers):
            message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
            if said.calls:
                message |= {"content": said.text or None, "tool_calls": [_call(call) for call in said.calls]}
            choices.append(
                {"index": index, "message": message, "logprobs": self._content(said.tokens), "finish_reason": finish}
            )
        return self.frame(choices, False) | {"usage": usage}

    def _chunk(
        self, answer: int, delta: dict[str, Any], tokens: Sequence[tuple[Token, int]] = (), finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._content(tokens) if tokens else None
        return self.frame([{"index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": finish}], True)

    def _content(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = []
        for token, _ in tokens:
            best = [_entry(self._tokenizer, index, logprob) for index, logprob in token.alternatives]
            content.append(_entry(self._tokenizer, token.id, token.logprob) | {"top_logprobs": best})
        return {"content": content, "refusal": None}


class CompletionForm(Reply):
    """/v1/completions."""

    def __init__(self, tokenizer: Tokenizer, model: str, tells_usage: bool, logprobs: bool) -> None:
        super().__init__("cmpl", "text_completion", model, tells_usage)
        self._tokenizer, self._logprobs = tokenizer, logprobs

    def chunks(self, answer: int, said: Said, finish: str | None) -> list[dict[str, Any]]:
        return [self.frame([self._choice(answer, said, finish)], True)] if said or finish is not None else []

    def whole(self, answers: Sequence[tuple[Said, str]], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(index, said, finish) for index, (said, finish) in enumerate(answers)]
        return self.frame(choices, False) | {"usage": usage}

    def _choice(self, index: int, said: Said, finish: str | None) -> dict[str, Any]:
        logprobs = self._listed(said.tokens) if self._logprobs else None
        return {"index": index, "text": said.text, "logprobs": logprobs, "finish_reason": finish}

    def _listed(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        spelled = self._tokenizer
        return {
            "tokens": [_text(spelled, token.id) for token, _ in tokens],
            "bytes": [list(spelled.token_bytes(token.id)) for token, _ in tokens],
            "token_logprobs": [max(token.logprob, LEAST_LOGPROB) for token, _ in tokens],
            "top_logprobs": [
                {_text(spelled, index): max(logprob, LEAST_LOGPROB) for index, logprob in reversed(token.alternatives)}
                for token, _ in tokens
            ],
            "text_offset": [offset for _, offset in tokens],
        }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": _text(tokenizer, token),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(tokenizer.token_bytes(token)),
    }
