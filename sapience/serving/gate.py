"""Who and what comes in: turned away before anything is read, or while it is read, if it must be.

A server on this machine can be reached by every web site open in the same browser. So, without a key, requests must name a
local host (against DNS rebinding) and come from the server's own page or from no page at all (Origin, Sec-Fetch-Site); with
a key, they must bear it, which no other site's page can make a browser do. Bodies are JSON, and as long and as slow as the
limits allow; one that is too long is read to its end within reason, since its sender listens only then.
"""

import asyncio
import hmac
import ipaddress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapience.serving.limits import Limits
from sapience.serving.measures import Measures
from sapience.serving.refusals import Refused

OPEN = frozenset({"/", "/health"})
"""Need no key: the page asks for it, and who looks after the server may not have it."""
READ_ON = 8
"""A body this many times too long is still read to its end."""
CLOSE = {"Connection": "close"}


@dataclass
class Doors:
    """Whether the server takes more, and what it has taken."""

    closing: bool = False
    active: int = 0
    """POST requests that have no complete reply yet."""


class Gate:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, limits: Limits, key: str, doors: Doors, measures: Measures) -> None:
        self.app = app
        self._limits, self._key, self._doors, self._measures = limits, key.encode(), doors, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
                self._measures.replied(scope["path"], message["status"])
            await send(message)

        posted = scope["method"] == "POST"
        if posted:
            self._doors.active += 1
        try:
            self._check(Headers(scope=scope), scope)
            read = await self._read(Headers(scope=scope), receive) if posted else receive
            if read is not None:
                await self.app(scope, read, counted)
        except Refused as refused:
            await refused.reply(scope, receive, counted)
        finally:
            self._doors.active -= posted

    def _check(self, headers: Headers, scope: Scope) -> None:
        """Raises Refused for what is not let in, from its headers alone."""
        method, path = scope["method"], scope["path"]
        if self._key:
            if path not in OPEN and not self._bears_key(headers):
                raise Refused(
                    401, "Incorrect API key provided: send it as Authorization: Bearer KEY", None, "invalid_api_key",
                    {"WWW-Authenticate": "Bearer", **CLOSE},
                )  # fmt: skip
        else:
            _check_local(headers, method, scope["scheme"])
        if method != "POST":
            return
        if self._doors.closing:
            raise Refused(503, "the server is shutting down: it takes no more requests", None, "shutting_down", CLOSE)
        if self._doors.active > self._limits.at_once:
            raise Refused(
                429, f"{self._limits.at_once} requests are under way: try again later", None, "queue_full",
                {"Retry-After": "1", **CLOSE},
            )  # fmt: skip
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the request is not JSON: send Content-Type: application/json", None, "not_json", CLOSE)

    def _bears_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hmac.compare_digest(key.strip().encode("utf-8", "replace"), self._key)
        return given and scheme.lower() == "bearer"

    async def _read(self, headers: Headers, receive: Receive) -> Receive | None:
        """The request's body, read, and what comes after; None where its client has gone. Raises Refused."""
        promised = headers.get("content-length", "0")
        if promised.isdecimal() and int(promised) > READ_ON * self._limits.body_bytes:
            raise self._too_long()
        try:
            async with asyncio.timeout(self._limits.arrival_seconds):
                body = await self._whole(receive)
        except TimeoutError:
            seconds = f"{self._limits.arrival_seconds:g}"
            raise Refused(
                408, f"the body did not arrive within {seconds} seconds", None, "body_timeout", CLOSE
            ) from None
        if body is None:
            return None
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        return replay

    async def _whole(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body = message.get("body", b"")
            length += len(body)
            if length <= self._limits.body_bytes:
                parts.append(body)
            else:
                parts.clear()
            if length > READ_ON * self._limits.body_bytes:
                raise self._too_long()
            more = message.get("more_body", False)
        if length > self._limits.body_bytes:
            raise self._too_long()
        return b"".join(parts)

    def _too_long(self) -> Refused:
        return Refused(
            413, f"the body is longer than {self._limits.body_bytes} bytes", None, "request_too_large", CLOSE
        )


def is_local(host: str) -> bool:
    """Whether only this machine reaches what is called so. A name other than localhost may be anybody's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_local(headers: Headers, method: str, scheme: str) -> None:
    host = headers.get("host", "")
    if not is_local(host) and not is_local(host.rpartition(":")[0]):
        raise Refused(
            403, "without a key this server answers this machine only: use http://127.0.0.1", None, "not_local", CLOSE
        )
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and origin != f"{scheme}://{host}") or (
        method not in ("GET", "HEAD") and site not in ("same-origin", "none")
    ):
        raise Refused(403, "the request comes from another site's page", None, "cross_site", CLOSE)
