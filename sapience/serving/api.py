"""OpenAI's API over a run's models, with the chat page, as one FastAPI application.

`/v1/chat/completions`, `/v1/completions` and `/v1/models` are what OpenAI's clients call; `/health` and `/metrics` are for
who looks after the server. Not covered: audio, images, embeddings, the responses and assistants APIs, batches.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sapience.serving.chat_page import page_response
from sapience.serving.drawing import Drawing, check_room
from sapience.serving.engine_thread import EngineThread
from sapience.serving.gate import Doors, Gate
from sapience.serving.limits import Limits
from sapience.serving.measures import Measures
from sapience.serving.models import Shelf, Speaker
from sapience.serving.plans import Plan, chat_plan, completion_plan
from sapience.serving.protocol import ChatBody, CompletionBody, Drawn
from sapience.serving.refusals import ErrorReply, Json, Refused, of_validation
from sapience.serving.streaming import reply_to

Body = TypeVar("Body", bound=Drawn)
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "What the client can mend."},
    "5XX": {"model": ErrorReply, "description": "What it cannot."},
}
ANSWERS: dict[int | str, dict[str, Any]] = REFUSALS | {
    200: {
        "description": "The answers; as server-sent events where `stream` is true.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


@dataclass
class House:
    """What one server's parts share."""

    thread: EngineThread
    shelf: Shelf
    limits: Limits
    key: str = ""
    doors: Doors = field(default_factory=Doors)


def serving_app(house: House) -> FastAPI:
    """The application. Its lifespan is the engine thread's."""
    shelf, limits = house.shelf, house.limits
    measures = Measures(shelf)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        house.thread.start()
        yield
        await to_thread.run_sync(house.thread.stop)

    app = FastAPI(title="sapience", docs_url=None, redoc_url=None, lifespan=lifespan, default_response_class=Json)
    app.add_middleware(Gate, limits=limits, key=house.key, doors=house.doors, measures=measures)
    _say_mistakes_as_openai_does(app)

    async def answered(
        request: Request, body: Body, plan_of: Callable[[Speaker, Body, Limits, float], Plan]
    ) -> Response:
        began = time.monotonic()
        speaker = await shelf.get(body.model)
        plan = await to_thread.run_sync(plan_of, speaker, body, limits, began)
        if not house.thread.alive:
            raise Refused(500, "the engine failed: the server has to be started again", None, "engine_failed")
        check_room(shelf.waiting, plan.wanted, limits)
        drawing = Drawing(house.thread, speaker, plan.wanted, limits, measures)
        return await reply_to(request, plan, drawing, limits.slow_seconds)

    @app.post("/v1/chat/completions", responses=ANSWERS)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        return await answered(request, body, chat_plan)

    @app.post("/v1/completions", responses=ANSWERS)
    async def completions(body: CompletionBody, request: Request) -> Response:
        return await answered(request, body, completion_plan)

    @app.get("/v1/models", responses=REFUSALS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [shelf.told(name) for name in shelf.folders]}

    @app.get("/v1/models/{name:path}", responses=REFUSALS)
    async def model(name: Annotated[str, InPath()]) -> dict[str, Any]:
        shelf.check(name)
        return shelf.told(name)

    @app.get("/health", responses=REFUSALS | {503: {"description": "It takes no requests."}})
    async def health() -> Response:
        state = "failed" if not house.thread.alive else "stopping" if house.doors.closing else "ok"
        told = {"status": state, "loaded": list(shelf.ready), "waiting": shelf.waiting, "running": shelf.running}
        return Json(told, 200 if state == "ok" else 503)

    @app.get("/metrics", responses=REFUSALS | {200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return measures.reply()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return page_response()

    return app


def _say_mistakes_as_openai_does(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.reply

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors()).reply

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        what = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
        said = what.get(error.status_code, str(error.detail))
        return Refused(error.status_code, said, headers=error.headers).reply

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return Refused(500, "the server made a mistake: its log says which", None, "internal_error").reply
