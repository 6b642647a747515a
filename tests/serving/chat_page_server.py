"""A server for the chat page without a model: it answers as the API does, from a table of answers.

A question names how it is answered: its first word may be `slow` (a piece every 80 ms), `endless`, `fail` (HTTP 503 the first
time), `break` (an error amid the answer), `cut` (the connection ends amid the answer), `long` (at its limit), `empty` or
`plain` (no usage, JSON). Everything else is answered from `ANSWERS`, or by its own words.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from sapience.serving.chat_page import page_response

MODELS = ("reinforce", "finetune", "pretrain")
PROMPT = "You are a careful assistant."


@dataclass
class Imitation:
    """What the server was asked, and how it is to behave."""

    answers: dict[str, str] = field(default_factory=dict)
    key: str = ""
    """Asked for with 401 where it is not empty."""
    step: float = 0.0
    """Seconds between two pieces of an ordinary answer."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    room: int = 100
    """Most messages of a conversation: its context."""
    left: int = 0
    """Answers whose reader went away."""
    failed: set[str] = field(default_factory=set)


def imitation_app(state: Imitation) -> FastAPI:
    """The page and the two routes that it calls."""
    app = FastAPI()

    @app.get("/")
    def read_page() -> Response:
        return page_response()

    @app.get("/v1/models", response_model=None)
    def read_models(request: Request) -> Any:
        if refusal := refuse(request):
            return refusal
        return {"object": "list", "data": [describe(name) for name in MODELS]}

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: Request) -> Any:
        if refusal := refuse(request):
            return refusal
        body = await request.json()
        state.asked.append(body)
        if len(body["messages"]) > state.room:
            return error("The conversation is too long.", 400, "context_length_exceeded")
        question = body["messages"][-1]["content"]
        manner = question.partition(" ")[0]
        if manner == "fail" and question not in state.failed:
            state.failed.add(question)
            return error("The model is being loaded: ask again in a moment.", 503)
        if manner == "plain":
            return {"choices": [{"message": {"content": "All at once."}, "finish_reason": "stop"}]}
        return StreamingResponse(stream(request, body, question, manner), media_type="text/event-stream")

    async def stream(request: Request, body: dict[str, Any], question: str, manner: str) -> AsyncIterator[str]:
        text = state.answers.get(question, f"{body['model']} says: {question}")
        pieces = ["word "] * 2000 if manner == "endless" else split(text)
        step = {"slow": 0.08, "endless": 0.01}.get(manner, state.step)
        told = 0
        try:
            for number, piece in enumerate(pieces if manner != "empty" else []):
                if manner in ("break", "cut") and number == 3:
                    if manner == "break":
                        yield event({"error": {"message": "The engine ran out of memory."}})
                    return
                yield event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
                told += 1
                await asyncio.sleep(step)
                if await request.is_disconnected():
                    state.left += 1
                    return
        except asyncio.CancelledError:
            state.left += 1
            raise
        finish = "length" if manner == "long" else "stop"
        yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        details = {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1}
        usage = {"prompt_tokens": 11, "completion_tokens": told, "completion_tokens_details": details}
        yield event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    def refuse(request: Request) -> JSONResponse | None:
        if state.key and request.headers.get("authorization") != f"Bearer {state.key}":
            return error("This server asks for its key.", 401)
        return None

    return app


def describe(name: str) -> dict[str, Any]:
    about = {
        "context": 4096,
        "taught": name != "pretrain",
        "system_prompt": PROMPT if name == "reinforce" else "",
        "loaded": True,
    }
    return {"id": name, "object": "model", "created": 0, "owned_by": "sapience", "sapience": about}


def split(text: str) -> list[str]:
    """Pieces of seven characters: they break words, fences and markers apart, as tokens do."""
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def error(message: str, status: int, code: str | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "imitated", "code": code}}, status)


@contextmanager
def served(state: Imitation) -> Iterator[str]:
    """The address of a running imitation."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(imitation_app(state), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
