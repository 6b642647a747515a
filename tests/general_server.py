"""A chat-completions server on this machine, and the stage's drafts from it: for tests of what asks a general model."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest

from sapience.posttraining import general_model
from sapience.posttraining.drafting import Drafted, draft_everyday
from sapience.recipe.distill import GeneratorSection

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, content."""


def said(content: Any, finish: Any = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def echo(body: dict[str, Any]) -> Answer:
    return said(f"  It is: {body['messages'][-1]['content']}\r\n")


class Server(ThreadingHTTPServer):
    """Answers from `script` first, in order, then by `rule`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.script: list[Answer | Callable[[dict[str, Any]], Answer]] = []
        self.rule: Callable[[dict[str, Any]], Answer] = echo
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def wishes(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["Authorization"])
        answer = self.server.script.pop(0) if self.server.script else self.server.rule
        status, headers, content = answer(body) if callable(answer) else answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Server]]:
    """Starts servers, asked without a proxy, without a key of the user's own and without long pauses."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(general_model, "FIRST_PAUSE_SECONDS", 0.01)
    started: list[Server] = []

    def start() -> Server:
        server = Server()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    return servers()


class Bar:
    def __init__(self) -> None:
        self.moved = 0.0

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        self.moved += amount


@contextmanager
def quiet(description: str, total: int | None) -> Iterator[Bar]:
    bar = Bar()
    yield bar
    assert bar.moved == total, "the bar ends at its end"


PROMPTS = ["Why is the sky blue?", "怎样煮一个鸡蛋？请一步一步告诉我。", "Thank my neighbour for the cake."]


def section(server: Server, **fields: Any) -> GeneratorSection:
    return GeneratorSection.model_validate({"url": server.url, "model": "big", "prompts": PROMPTS, **fields})


def drafts(server: Server, folder: Path, **fields: Any) -> Drafted:
    return draft_everyday(section(server, **fields), 7, folder, quiet)
