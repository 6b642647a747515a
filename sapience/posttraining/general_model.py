"""A general model behind an OpenAI-compatible address: one question, one answer.

Whatever is worth a second try (no connection, a timeout, 408, 429, 5xx, half an answer) is tried three times in all, with
a pause as long as the server asks for, within bounds. What a retry cannot mend is a UserError that names the address and
the remedy. The key goes to that address alone: redirects are not followed, and no message or record shows it.

Not covered: streaming, tools, and models that refuse `max_tokens`.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx2

from sapience.corpus.chat import Message
from sapience.recipe.endpoint import EndpointSection
from sapience.recipe.errors import UserError
from sapience.review.records import storable

ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 1.0
"""Before the second attempt; twice as long before each further one."""
LONGEST_PAUSE_SECONDS = 60.0
CONNECT_SECONDS = 10.0
LARGEST_ANSWER = 1 << 24
"""Bytes."""
TIMES = ("", "once", "twice", "three times")


class Unavailable(Exception):
    """The server gave no usable answer to a question in three attempts; the message says why."""


class _Passing(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, cause: str, pause: float | None = None, reached: bool = True) -> None:
        super().__init__(cause)
        self.pause = pause
        self.reached = reached


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str | None
    """None where the server sent none, or one that no file can hold."""
    finish: str
    """Why the model stopped, in the server's words: `stop`, `length`, `content_filter`…; may be empty."""


class GeneralModel:
    """A connection to the model that a recipe names. Raises UserError for an address or key that cannot be used."""

    def __init__(self, section: EndpointSection, place: str = "distill.generator") -> None:
        self.section = section
        self._place = place
        """Where the recipe names it, for messages."""
        try:
            base = httpx2.URL(section.url)
        except httpx2.InvalidURL as error:
            raise UserError(f"{self._place}.url is no address ({error}): write http://HOST:PORT/v1") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise UserError(f"{self._place}.url {_shown(base)!r} is no web address: write http://HOST:PORT/v1")
        self.address = _shown(base)
        """Without credentials and query: fit for records and messages."""
        self._url = base.copy_with(userinfo=b"", path=base.path.rstrip("/") + "/chat/completions")
        self._key = os.environ.get(section.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {section.key_variable} has characters that no key has: set it anew")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        named = httpx2.BasicAuth(base.username, base.password) if base.userinfo and not self._key else None
        timeout = httpx2.Timeout(section.timeout, connect=min(section.timeout, CONNECT_SECONDS))
        self._client = httpx2.Client(headers=headers, auth=named, timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def answer(self, messages: Sequence[Message], seed: int) -> Reply:
        """Raises Unavailable after three attempts, UserError for what no attempt can mend."""
        body = {
            "model": self.section.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": self.section.temperature,
            "max_tokens": self.section.answer_tokens,
            "seed": seed,
        }
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(body)
            except _Passing as error:
                failure = error
            if attempt < ATTEMPTS:
                pause = failure.pause if failure.pause is not None else FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
                time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        if not failure.reached:
            raise UserError(
                f"the general model at {self.address} cannot be reached ({failure}): see that the server runs and that "
                f"{self._place}.url is right, then run again; the drafts made so far are kept"
            )
        raise Unavailable(f"asked {TIMES[ATTEMPTS]}: {failure}")

    def _attempt(self, body: dict[str, Any]) -> Reply:
        deadline = time.monotonic() + self.section.timeout
        content = bytearray()
        try:
            with self._client.stream("POST", self._url, json=body) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > deadline:
                        raise _Passing(f"no whole answer in {self.section.timeout:g} s")
                    if len(content) > LARGEST_ANSWER:
                        raise _Passing(f"the answer is larger than {LARGEST_ANSWER >> 20} MiB")
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _Passing(self._clipped(str(error) or type(error).__name__), reached=False) from None
        except httpx2.TimeoutException:
            raise _Passing(f"no answer in {self.section.timeout:g} s") from None
        except httpx2.RequestError as error:
            raise _Passing(self._clipped(str(error) or type(error).__name__)) from None
        return self._read(response, bytes(content))

    def _read(self, response: httpx2.Response, content: bytes) -> Reply:
        status = response.status_code
        if 300 <= status < 400:
            try:
                target = _shown(response.url.join(response.headers.get("Location", "")))
            except httpx2.InvalidURL as error:
                raise _Passing(f"it redirects to what is no address ({self._clipped(str(error))})") from None
            raise UserError(
                f"the general model at {self.address} redirects to {self._clipped(target)}: set {self._place}.url "
                "to where it is, since a key must not follow a redirect"
            )
        if status in (408, 429) or status >= 500:
            pause = _asked_pause(response.headers.get("Retry-After", ""))
            raise _Passing(f"error {status}: {self._clipped(_message(content))}", pause)
        if status >= 400:
            if _error_code(content) == "content_filter":
                return Reply(None, "content_filter")
            cause = self._clipped(_message(content))
            remedy = {
                401: f"put a valid key into the environment variable {self.section.key_variable}",
                403: f"see that the key in {self.section.key_variable} may use this model",
                404: f"correct {self._place}.url (most end in /v1) or {self._place}.model",
            }.get(status, f"correct {self._place} in the recipe")
            raise UserError(f"the general model at {self.address} refuses (error {status}: {cause}): {remedy}")
        try:
            choice = json.loads(content)["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            start = self._clipped(content.decode("utf-8", "replace"))
            raise _Passing(f"its answer is not that of a chat-completions server: {start}") from None
        return Reply(_plain(text), _plain(finish) or "")

    def _clipped(self, text: str) -> str:
        """At most 300 characters on one line, without control characters and without the key."""
        if self._key:
            text = text.replace(self._key, "…")
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return line[:300] + ("…" if len(line) > 300 else "") or "no message"


def _shown(url: httpx2.URL) -> str:
    return str(url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def _plain(value: Any) -> str | None:
    return value if isinstance(value, str) and storable(value) else None


def _asked_pause(header: str) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says nothing."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _message(content: bytes) -> str:
    """What the server says of an error: the message of the usual layouts, else its words as they are."""
    error = _error(content)
    found = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    return found if isinstance(found, str) else content.decode("utf-8", "replace")


def _error_code(content: bytes) -> Any:
    error = _error(content)
    return error.get("code") if isinstance(error, dict) else None


def _error(content: bytes) -> Any:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return record.get("error", record) if isinstance(record, dict) else None
