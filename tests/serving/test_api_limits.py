"""What the server turns away, bounds and gives up: keys, foreign pages, bodies, queues, slow and absent clients."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from api_server import FakeEngine, Running, counts, fake_speaker, running, says, until

from sapience.recipe import UserError
from sapience.serving.gate import is_local
from sapience.serving.limits import Limits
from sapience.serving.server import listen

HI: list[Any] = [{"role": "user", "content": "Ada finds"}]
BODY = {"model": "tiny", "messages": HI, "max_tokens": 4}
CHAT = "/v1/chat/completions"
SMALL = Limits(
    body_bytes=2000, header_bytes=4000, arrival_seconds=0.5, slow_seconds=0.5, waiting=2, seconds=20, grace=5
)


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    with running(fake_speaker(FakeEngine(counts, rows=2, delay=0.002)), SMALL) as server:
        yield server


def post(
    server: Running, body: bytes | str, headers: dict[str, str] | None = None, path: str = CHAT
) -> tuple[int, Any, Any]:
    """Status, content, headers."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"} | (headers or {}))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers
    finally:
        connection.close()


def get(server: Running, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def heard(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ("{", {}, 400, None),
        ("", {}, 400, "missing_required_parameter"),
        ("[]", {}, 400, "invalid_type"),
        ("[" * 1500, {}, 400, None),
        (
            '{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
            {},
            400,
            "invalid_value",
        ),
        ('{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}', {}, 404, "model_not_found"),
        (b'{"model": "\xff"}', {}, 400, None),
        (json.dumps(BODY), {"Content-Type": "text/plain"}, 415, "not_json"),
        (json.dumps(BODY), {"Content-Type": "application/x-www-form-urlencoded"}, 415, "not_json"),
        (json.dumps(BODY), {"Origin": "https://example.com"}, 403, "cross_site"),
        (json.dumps(BODY), {"Sec-Fetch-Site": "cross-site"}, 403, "cross_site"),
        (json.dumps(BODY), {"Host": "example.com"}, 403, "not_local"),
        (b" " * 2001, {}, 413, "request_too_large"),
        (b" " * 10000, {}, 413, "request_too_large"),
        (json.dumps(BODY), {"Content-Type": "application/json; charset=utf-8"}, 200, None),
    ],
)
def test_what_is_turned_away(
    small: Running, body: bytes | str, headers: dict[str, str], status: int, code: str | None
) -> None:
    got, content, _ = post(small, body, headers)
    assert got == status
    if status != 200:
        assert set(content["error"]) == {"message", "type", "param", "code"} and content["error"]["code"] == code


def test_the_page_of_this_server_may_ask(small: Running) -> None:
    assert post(small, json.dumps(BODY), {"Origin": small.url, "Sec-Fetch-Site": "same-origin"})[0] == 200
    assert get(small, "/health", {"Host": "rebound.example"})[0] == 403


def test_paths_and_methods_that_there_are_not(small: Running) -> None:
    status, content, _ = post(small, "{}", path="/v1/embeddings")
    assert status == 404 and content["error"]["type"] == "invalid_request_error"
    status, text = get(small, CHAT)
    assert status == 405 and json.loads(text)["error"]["message"]


def test_a_huge_body_is_refused_before_it_is_sent(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: 99999999999\r\n\r\n{{".encode()
        )
        assert b" 413 " in heard(connection).split(b"\r\n")[0]


def test_headers_that_are_too_long(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000)
        assert b" 431 " in heard(connection).split(b"\r\n")[0]


def test_what_is_not_http(small: Running) -> None:
    with small.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b" 400 " in heard(connection).split(b"\r\n")[0]


@pytest.mark.parametrize("sent", [b"POST /v1/chat", f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n".encode()])
def test_headers_that_do_not_come(small: Running, sent: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert b" 408 " in heard(connection).split(b"\r\n")[0]
        assert 0.3 < time.monotonic() - began < 5
    with small.connect() as connection:
        assert heard(connection) == b""


def test_half_a_body(small: Running) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    with small.connect() as connection:
        connection.sendall(head.encode())
        assert b" 408 " in heard(connection).split(b"\r\n")[0]
    with small.connect() as connection:
        connection.sendall(head.encode())
    until(lambda: small.house.doors.active == 0)
    assert get(small, "/health")[0] == 200


def test_a_client_that_leaves_a_stream_is_noticed(small: Running) -> None:
    client = small.client()
    stream = client.chat.completions.create(model="tiny", messages=HI, stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    assert small.engine.running == 1
    stream.close()
    assert until(lambda: small.engine.running == 0) < 1
    until(lambda: small.house.thread.open == 0 and small.house.doors.active == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_is_noticed(small: Running, stream: bool) -> None:
    with running(fake_speaker(FakeEngine(counts, rows=1, delay=0.01)), Limits(waiting=9)) as server:
        body = json.dumps({"model": "tiny", "messages": HI, "n": 1, "max_tokens": 1000, "stream": stream}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.sendall(head.encode() + body)
        until(lambda: server.engine.running == 1 and server.engine.waiting == 2)
        for client in clients:
            client.close()
        assert until(lambda: server.engine.running == 0 and server.engine.waiting == 0) < 1
        until(lambda: server.house.thread.open == 0)


def test_a_full_queue(small: Running) -> None:
    client = small.client()
    streams = [client.chat.completions.create(model="tiny", messages=HI, stream=True) for _ in range(2)]
    waiting = [small.connect() for _ in range(2)]
    body = json.dumps(BODY).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for connection in waiting:
        connection.sendall(head.encode() + body)
    until(lambda: small.engine.waiting == 2)
    status, content, headers = post(small, body)
    assert (status, content["error"]["code"], headers["Retry-After"]) == (429, "queue_full", "1")
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="tiny", messages=HI)
    for stream in streams:
        stream.close()
    for connection in waiting:
        assert b" 200 " in connection.recv(4096)
        connection.close()


@pytest.mark.parametrize(
    ("bounds", "most"),
    [
        (Limits(slow_seconds=0.5, unread=90_000, answer_tokens=100_000), 60_000),
        (Limits(unread=500, answer_tokens=100_000, slow_seconds=1), 8_000),
    ],
    ids=["nothing is read for too long", "too much waits"],
)
def test_a_client_that_does_not_read_is_cut_off_and_stops_nobody(bounds: Limits, most: int) -> None:
    """Its stream fills the connection's buffers; what waits for it in the server stays bounded."""
    with running(fake_speaker(FakeEngine(counts, delay=0.0005), context=100_000), bounds) as server:
        body = json.dumps(
            {
                "model": "tiny",
                "messages": HI,
                "stream": True,
                "logprobs": True,
                "top_logprobs": 20,
                "max_tokens": 90_000,
            }
        ).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow = server.connect(receive_bytes=4096)
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: server.engine.running == 1)
        reply = server.client().chat.completions.create(model="tiny", messages=HI, max_tokens=50)
        assert reply.usage.completion_tokens == 50
        until(lambda: server.engine.running == 0, 15)
        until(lambda: server.house.thread.open == 0 and server.house.doors.active == 0)
        assert server.engine.counters.drawn_tokens < most
        received = b""
        with suppress(ConnectionError):
            while part := slow.recv(1 << 20):
                received += part
        assert b" 200 " in received[:20] and b"[DONE]" not in received
        slow.close()


def test_too_many_requests_under_way(small: Running) -> None:
    with running(fake_speaker(FakeEngine(counts)), Limits(at_once=2, arrival_seconds=5)) as server:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
        )
        halves = [server.connect() for _ in range(2)]
        for half in halves:
            half.sendall(head.encode())
        until(lambda: server.house.doors.active == 2)
        status, content, headers = post(server, json.dumps(BODY))
        assert (status, content["error"]["code"], headers["Retry-After"]) == (429, "queue_full", "1")
        for half in halves:
            half.close()
        until(lambda: server.house.doors.active == 0)
        assert post(server, json.dumps(BODY))[0] == 200


def test_time_that_is_over() -> None:
    bounds = Limits(seconds=0.3)
    with running(fake_speaker(FakeEngine(counts, rows=1, delay=0.01)), bounds) as server:
        client = server.client()
        reply = client.chat.completions.create(model="tiny", messages=HI)
        assert reply.choices[0].finish_reason == "length" and 5 < reply.usage.completion_tokens < 40
        until(lambda: server.engine.running == 0)
        chunks = list(client.chat.completions.create(model="tiny", messages=HI, stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"
    with running(fake_speaker(FakeEngine(counts, rows=0)), bounds) as server:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as error:
                server.client().chat.completions.create(model="tiny", messages=HI, stream=stream)
            assert error.value.status_code == 504 and error.value.code == "timeout"
            until(lambda: server.engine.waiting == 0)


def test_a_key_keeps_others_out() -> None:
    with running(fake_speaker(FakeEngine(says("yes"))), key="secret") as server:
        assert server.client("secret").chat.completions.create(model="tiny", messages=HI).choices
        for key in ("Secret", "secret2", "s", "é"):
            status, content, headers = post(server, json.dumps(BODY), {"Authorization": f"Bearer {key}"})
            assert status == 401 and content["error"]["code"] == "invalid_api_key" and headers["WWW-Authenticate"]
        assert post(server, json.dumps(BODY), {"Authorization": "Basic secret"})[0] == 401
        assert [get(server, path)[0] for path in ("/health", "/metrics", "/v1/models")] == [200, 401, 401]
        away = {"Authorization": "bearer secret", "Host": "models.example:80", "Origin": "https://models.example"}
        assert post(server, json.dumps(BODY), away)[0] == 200


def test_figures(small: Running) -> None:
    post(small, json.dumps(BODY))
    post(small, "{}", path="/no/such/path")
    status, text = get(small, "/metrics")
    lines = text.decode().splitlines()
    assert status == 200
    assert any(line.startswith(f'sapience_requests_total{{path="{CHAT}",status="200"}}') for line in lines)
    assert any(line.startswith('sapience_requests_total{path="other",status="404"}') for line in lines)
    assert not any("no/such" in line for line in lines)
    for name in (
        "sapience_prompt_tokens_total", "sapience_answer_tokens_total", "sapience_first_token_seconds_count",
        "sapience_request_tokens_per_second_count", 'sapience_running{model="tiny"}', 'sapience_waiting{model="tiny"}',
        'sapience_engine_drafted_tokens_total{model="tiny"}', 'sapience_engine_accepted_tokens_total{model="tiny"}',
    ):  # fmt: skip
        assert any(line.startswith(name) for line in lines), name


def test_addresses() -> None:
    assert is_local("127.0.0.1") and is_local("::1") and is_local("localhost") and is_local("127.8.0.1")
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.0.1", "example.com")))
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="taken by another program"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="choose another --host"):
        listen("no-such-host.invalid", 0)
