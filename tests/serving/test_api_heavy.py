"""Requests that are small to send and large to think about: refused at once, nobody else waits for them."""

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import Running, real_speaker, running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TURNS = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(real_speaker()) as made:
        yield made


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (COMPLETIONS, {"prompt": [-1] * 250_000}, None),
        (COMPLETIONS, {"prompt": [[]] * 250_000}, None),
        (COMPLETIONS, {"prompt": "a" * 2_000_000}, None),
        (CHAT, {"messages": [{}] * 200_000}, None),
        (CHAT, {"messages": [{"role": "user", "content": " " * 2_000_000}]}, None),
        (CHAT, {"messages": TURNS, "response_format": form({"const": "x" * 100_000})}, "invalid_schema"),
        (
            CHAT,
            {"messages": TURNS, "response_format": form({"enum": [f"word {i}" for i in range(20_000)]})},
            "invalid_schema",
        ),
    ],
)
def test_it_is_refused_at_once(server: Running, path: str, body: dict[str, Any], code: str | None) -> None:
    sent = json.dumps({"model": "tiny"} | body)
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    began = time.monotonic()
    connection.request("POST", path, sent, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    told = json.loads(reply.read())
    connection.close()
    assert reply.status == 400 and told["error"]["message"] and len(told["error"]["message"]) < 1000
    assert code is None or told["error"]["code"] == code
    assert time.monotonic() - began < 10
