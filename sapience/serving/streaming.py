"""How a drawing becomes a reply: whole, or as a stream of server-sent events, as long as its client is there.

A client that has gone is noticed while nothing is sent to it, and the drawing is given up at once. A client that is there
and does not read fills the buffers of its connection; when nothing moved for `slow_seconds` it is cut off. A stream begins
with its first token, so that everything that can go wrong before has a status of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sapience.serving.answers import Said
from sapience.serving.drawing import Batch, Drawing
from sapience.serving.plans import Plan
from sapience.serving.refusals import Json, Refused, as_json
from sapience.serving.replies import usage_of

LEFT = 499
"""Status, in the figures only, of a request whose client had gone before there was a reply."""
Value = TypeVar("Value")


async def reply_to(request: Request, plan: Plan, drawing: Drawing, slow_seconds: float) -> Response:
    """The response. Raises Refused where there is none."""
    try:
        if not plan.stream:
            return Json(await unless_left(request.receive, _whole(plan, drawing)))
        batches = drawing.batches()
        first = await unless_left(request.receive, anext(batches))
    except Left:
        drawing.close()
        return Response(status_code=LEFT)
    except BaseException:
        drawing.close()
        raise
    return EventStream(plan, drawing, first, batches, slow_seconds)


class Left(Exception):
    """The client has gone."""


async def unless_left(receive: Receive, work: Awaitable[Value]) -> Value:
    """What the work comes to. Raises Left, the work being cancelled, where the client goes before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Left
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(plan: Plan, drawing: Drawing) -> dict[str, Any]:
    said = [Said() for _ in plan.choices]
    async for batch in drawing.batches():
        for answer, new in _new(plan, drawing, batch):
            said[answer].add(new)
    finished = [(one, choice.finish or "stop") for one, choice in zip(said, plan.choices, strict=True)]
    return plan.form.whole(finished, usage_of(drawing, plan.choices))


def _new(plan: Plan, drawing: Drawing, batch: Batch) -> Sequence[tuple[int, Said]]:
    """What a batch adds to each answer that it has something of."""
    new: dict[int, Said] = {}
    for answer, item in batch:
        choice = plan.choices[answer]
        ended = choice.ended
        said = choice.end(item) if isinstance(item, str) else choice.push(item)
        new.setdefault(answer, Said()).add(said)
        if choice.ended and not ended:
            drawing.finish(answer)
    return list(new.items())


class EventStream(Response):
    """Answers as server-sent events."""

    media_type = "text/event-stream"

    def __init__(
        self, plan: Plan, drawing: Drawing, first: Batch, batches: AsyncIterator[Batch], slow_seconds: float
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._plan, self._drawing, self._slow_seconds = plan, drawing, slow_seconds
        self._first, self._batches = first, batches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(Left):
                await unless_left(receive, self._send_all(scope, send))
        finally:
            self._drawing.close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for events in self._events():
                await self._send(send, {"type": "http.response.body", "body": events, "more_body": True})
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            scope.get("state", {})["transport"].abort()

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self._slow_seconds):
            await send(message)

    async def _events(self) -> AsyncIterator[bytes]:
        plan = self._plan
        try:
            async for batch in self._all():
                ended = [choice.ended for choice in plan.choices]
                chunks = []
                for answer, said in _new(plan, self._drawing, batch):
                    finish = None if ended[answer] else plan.choices[answer].finish
                    if not ended[answer]:
                        chunks += plan.form.chunks(answer, said, finish)
                if chunks:
                    yield b"".join(map(_event, chunks))
        except Refused as refused:
            yield _event(refused.body)
            return
        last = [plan.form.usage_chunk(usage_of(self._drawing, plan.choices))] if plan.tells_usage else []
        yield b"".join(map(_event, last)) + b"data: [DONE]\n\n"

    async def _all(self) -> AsyncIterator[Batch]:
        yield self._first
        async for batch in self._batches:
            yield batch


def _event(content: Any) -> bytes:
    return b"data: " + as_json(content) + b"\n\n"
