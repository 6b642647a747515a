"""The review page and its JSON API, as one FastAPI application over a queue.

Blinding happens here: in which order a person sees the two answers of a comparison is drawn from a hash of person and
comparison, the choice is mapped back on the way in, and no reply says where an answer comes from.

A page on this machine can be reached by every web site open in the same browser. So requests must name a local host
(against DNS rebinding), come from the page itself (Origin, Sec-Fetch-Site) and carry JSON; the page runs only its own
script and style, known by hash.

Not covered: who a person is. Several people on several machines each serve the page to themselves and share the queue's
PostgreSQL address.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sapience.review.queue import ReviewQueue
from sapience.review.records import (
    LONGEST_NAME,
    Chosen,
    Comparison,
    Decision,
    Draft,
    Messages,
    RaterAgreement,
    RefusedWord,
    UnknownItem,
)

LONGEST_BODY = 256 * 1024
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Seen = Literal["left", "right", "equal"]
"""A choice as the person saw the pair."""


class Body(BaseModel):
    """What the page sends: exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    annotator: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class DecisionBody(Body):
    """A word on a draft."""

    identity: str
    action: Literal["accept", "edit", "reject"]
    answer: str = ""
    reason: str = ""


class ChoiceBody(Body):
    """A word on a comparison."""

    identity: str
    chosen: Seen
    reason: str


class Turn(BaseModel):
    """One message of a conversation."""

    role: str
    content: str


class Shown(BaseModel):
    """An item as a person may see it: without its source."""

    identity: str
    messages: list[Turn]
    answers: list[str]
    """A draft's one answer, or the two of a comparison in this person's order."""
    language: str
    category: str


class NextItem(BaseModel):
    """The next item, or nothing where this person has seen all."""

    item: Shown | None


class Undone(BaseModel):
    """The word that was taken back, so that the page can offer it for correction."""

    kind: Literal["draft", "comparison"] | None
    item: Shown | None
    said: str = ""
    answer: str = ""
    reason: str = ""


class Rate(BaseModel):
    """Agreement on one kind of item."""

    items: int
    percent: float | None
    kappa: float | None
    statistic: Literal["Cohen", "Fleiss"] | None


class Progress(BaseModel):
    """How far the review is and how far people agree."""

    waiting: int
    accepted: int
    edited: int
    rejected: int
    compared: int
    annotators: int
    decisions: Rate
    choices: Rate


def swapped(annotator: str, identity: str) -> bool:
    """Whether a person sees a comparison's second answer on the left."""
    return bool(hashlib.sha256(json.dumps([annotator.strip(), identity]).encode("utf-8")).digest()[0] & 1)


def unblind(annotator: str, identity: str, seen: Seen) -> Chosen:
    """The stored answer that a person means by the one on the left or right."""
    if seen == "equal":
        return "equal"
    return "second" if (seen == "left") == swapped(annotator, identity) else "first"


def blind(annotator: str, identity: str, chosen: Chosen) -> Seen:
    """Where a person saw the stored answer they chose."""
    if chosen == "equal":
        return "equal"
    return "left" if (chosen == "second") == swapped(annotator, identity) else "right"


def review_app(queue: ReviewQueue, hosts: Collection[str] = LOOPBACK) -> FastAPI:
    """The application; it answers only requests that name one of these hosts."""
    page = Path(__file__).with_name("review.html").read_text(encoding="utf-8")
    app = FastAPI(title="sapience review", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.add_middleware(Guard, hosts=frozenset(hosts), policy=content_policy(page))

    @app.exception_handler(RefusedWord)
    def refused(request: Request, error: RefusedWord) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(UnknownItem)
    def unknown(request: Request, error: UnknownItem) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(part for part in first["loc"] if isinstance(part, str) and part != "body")
        return JSONResponse({"detail": f"{where or 'the request'}: {first['msg']}"}, 422)

    @app.exception_handler(SQLAlchemyError)
    def unreachable(request: Request, error: SQLAlchemyError) -> JSONResponse:
        return JSONResponse({"detail": "the queue's database did not answer: nothing was saved, try again"}, 503)

    @app.get("/", response_class=HTMLResponse)
    def read_page() -> str:
        return page

    @app.get("/api/progress")
    def read_progress() -> Progress:
        counts, agreement = queue.counts(), queue.agreement()
        return Progress(**vars(counts), decisions=_rate(agreement.decisions), choices=_rate(agreement.choices))

    @app.post("/api/drafts/next")
    def next_draft(body: Body) -> NextItem:
        draft = queue.next_draft(body.annotator)
        return NextItem(item=_show_draft(draft) if draft else None)

    @app.post("/api/comparisons/next")
    def next_comparison(body: Body) -> NextItem:
        pair = queue.next_comparison(body.annotator)
        return NextItem(item=_show_comparison(pair, body.annotator) if pair else None)

    @app.post("/api/decisions", status_code=204)
    def decide(body: DecisionBody) -> None:
        queue.decide(body.identity, body.annotator, body.action, body.answer, body.reason)

    @app.post("/api/choices", status_code=204)
    def choose(body: ChoiceBody) -> None:
        chosen = unblind(body.annotator, body.identity, body.chosen)
        queue.choose(body.identity, body.annotator, chosen, body.reason)

    @app.post("/api/undo")
    def undo(body: Body) -> Undone:
        word = queue.undo(body.annotator)
        if word is None:
            return Undone(kind=None, item=None)
        if isinstance(word, Decision):
            item = _show_draft(word.draft)
            return Undone(kind="draft", item=item, said=word.action, answer=word.answer, reason=word.reason)
        item = _show_comparison(word.comparison, body.annotator)
        said = blind(body.annotator, word.comparison.identity, word.chosen)
        return Undone(kind="comparison", item=item, said=said, reason=word.reason)

    return app


def content_policy(page: str) -> str:
    """A Content-Security-Policy that allows the page's own script and style, by hash, and requests to its own server."""
    allowed = {}
    for tag in ("script", "style"):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in texts)
        allowed[tag] = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Turns away what does not come from the page, or is too long, before anything reads it."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], policy: str) -> None:
        self.app = app
        self.hosts = hosts
        self.headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        refusal = self.refuse(Headers(scope=scope), scope["method"], scope["scheme"])
        body = b"" if refusal else await _read_body(receive)
        if body is None:
            refusal = JSONResponse({"detail": f"the request is longer than {LONGEST_BODY // 1024} KB"}, 413)
        if refusal:
            await refusal(scope, receive, send_guarded)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send_guarded)

    def refuse(self, headers: Headers, method: str, scheme: str) -> JSONResponse | None:
        """Why a request is not served, from its headers alone."""
        host = headers.get("host", "")
        if host.rpartition(":")[0].strip("[]") not in self.hosts and host.strip("[]") not in self.hosts:
            return JSONResponse({"detail": "this page is served to this machine only: use http://127.0.0.1"}, 403)
        if method in ("GET", "HEAD"):
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and origin != f"{scheme}://{host}") or site not in ("same-origin", "none"):
            return JSONResponse({"detail": "the request comes from another page"}, 403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return JSONResponse({"detail": "the request is not JSON (Content-Type: application/json)"}, 415)
        if headers.get("content-length", "0").isdecimal() and int(headers.get("content-length", "0")) > LONGEST_BODY:
            return JSONResponse({"detail": f"the request is longer than {LONGEST_BODY // 1024} KB"}, 413)
        return None


async def _read_body(receive: Receive) -> bytes | None:
    """A request's whole body, or None as soon as it is too long, whatever its headers promised."""
    parts: list[bytes] = []
    length = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > LONGEST_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _rate(agreement: RaterAgreement) -> Rate:
    return Rate(**vars(agreement))


def _turns(messages: Messages) -> list[Turn]:
    return [Turn(role=role, content=content) for role, content in messages]


def _show_draft(draft: Draft) -> Shown:
    return Shown(
        identity=draft.identity,
        messages=_turns(draft.messages),
        answers=[draft.answer],
        language=draft.language,
        category=draft.category,
    )


def _show_comparison(pair: Comparison, annotator: str) -> Shown:
    answers = [pair.second, pair.first] if swapped(annotator, pair.identity) else [pair.first, pair.second]
    return Shown(
        identity=pair.identity,
        messages=_turns(pair.messages),
        answers=answers,
        language=pair.language,
        category=pair.category,
    )
