"""A general model behind a real server on this machine: addresses, keys, retries, deadlines, and what a user is told."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from general_server import PROMPTS, Answer, Handler, Server, drafts, echo, said
from hypothesis import given
from hypothesis import strategies as st

from sapience.posttraining import general_model
from sapience.posttraining.drafting import MOST_FAILURES
from sapience.recipe import UserError

# Addresses and keys


def test_the_key_is_sent_and_appears_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", " sk-secret\n")
    server.script = [(429, {"Retry-After": "0"}, b"slow down, sk-secret")]
    drafts(server, tmp_path, key_variable="MY_KEY")
    assert set(server.keys) == {"Bearer sk-secret"}
    server.rule = lambda body: (401, {}, b'{"error": {"message": "sk-secret is no key"}}')
    with pytest.raises(UserError, match="environment variable MY_KEY") as raised:
        drafts(server, tmp_path, key_variable="MY_KEY", model="other")
    assert "… is no key" in str(raised.value)
    told = "".join(path.read_text() for path in tmp_path.iterdir()) + "".join(capfd.readouterr()) + str(raised.value)
    assert "secret" not in told


def test_a_key_that_no_header_can_carry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-geheim…\x07")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as raised:
        drafts(server, tmp_path)
    assert "geheim" not in str(raised.value)


def test_credentials_in_the_address_are_used_and_not_told(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("http://", "http://ada:geheim@") + "/?api-version=2"
    made = drafts(server, tmp_path, url=url)
    assert made.samples[0].source == f"drafted by big at {server.url}"
    assert set(server.paths) == {"/v1/chat/completions?api-version=2"}
    assert set(server.keys) == {"Basic YWRhOmdlaGVpbQ=="}
    assert not [path for path in tmp_path.iterdir() if "geheim" in path.read_text()]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_carries_no_key(
    status: int, servers: Callable[[], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server, other = servers(), servers()
    server.rule = lambda body: (status, {"Location": f"{other.url}/elsewhere?token=geheim"}, b"")
    with pytest.raises(UserError, match=r"redirects to .*elsewhere: set distill\.generator\.url") as raised:
        drafts(server, tmp_path)
    assert not other.keys
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1", "", "x"])
def test_addresses_that_are_none(url: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill\.generator\.url"):
        drafts(server, tmp_path, url=url)


@pytest.mark.parametrize("status", [300, 302])
def test_a_redirect_to_what_is_no_address_gives_the_wish_up(status: int, server: Server, tmp_path: Path) -> None:
    server.script = [(status, {"Location": "http://[::1"}, b"")] * general_model.ATTEMPTS
    made = drafts(server, tmp_path, prompts=["One?", "Two?"])
    assert made.failed == 1 and len(made.samples) == 1


def test_a_server_that_is_not_there(server: Server, tmp_path: Path) -> None:
    drafts(server, tmp_path, prompts=PROMPTS[:1])
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=rf"{server.url} cannot be reached \(.*refused.*\): see that the server runs"):
        drafts(server, tmp_path)
    assert drafts(server, tmp_path, prompts=PROMPTS[:1]).samples, "what is there needs no server"


# Trouble that passes, and trouble that stays


def test_asked_to_wait_then_answered(server: Server, tmp_path: Path) -> None:
    server.script = [(429, {"Retry-After": "1"}, b"{}"), echo, (503, {}, b"busy"), (500, {}, b"oh"), echo]
    began = time.monotonic()
    made = drafts(server, tmp_path)
    assert time.monotonic() - began >= 1
    assert (len(made.samples), made.failed) == (3, 0)
    assert server.wishes == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 3 + [PROMPTS[2]]


def test_three_failures_give_a_wish_up_and_the_next_session_asks_again(server: Server, tmp_path: Path) -> None:
    server.script = [(500, {}, b'{"error": "broken"}')] * 3
    made = drafts(server, tmp_path)
    assert (len(made.samples), made.failed, made.left_out) == (2, 1, {})
    assert server.wishes == [PROMPTS[0]] * 3 + PROMPTS[1:]
    again = drafts(server, tmp_path)
    assert server.wishes[5:] == [PROMPTS[0]]
    assert (len(again.samples), again.failed) == (3, 0)


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", b'{"choices": [{"message"', b"[]", b'{"choices": []}', b"null", b"[" * 9999, b"\xff",
     b'{"choices": [{"message": "x"}]}'],
)  # fmt: skip
def test_answers_that_are_no_completions(content: bytes, server: Server, tmp_path: Path) -> None:
    server.script = [(200, {}, content)]
    assert len(drafts(server, tmp_path).samples) == 3
    server.rule = lambda body: (200, {}, content)
    with pytest.raises(UserError, match="not that of a chat-completions server"):
        drafts(server, tmp_path, prompts=[f"wish {n}" for n in range(MOST_FAILURES)])


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, b'{"error": {"message": "max_tokens is too large"}}', "error 400: max_tokens is too large"),
        (404, b'{"detail": "no model big"}', "no model big.*correct distill.generator.url"),
        (403, b"", "error 403: no message.*OPENAI_API_KEY"),
        (422, b"<p>strange</p>" + b"x" * 2000, "<p>strange</p>xxx.*…"),
    ],
)
def test_refusals_are_told_at_once(status: int, content: bytes, told: str, server: Server, tmp_path: Path) -> None:
    server.script = [(status, {}, content)]
    with pytest.raises(UserError, match=told) as raised:
        drafts(server, tmp_path)
    assert len(server.asked) == 1
    assert server.url in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_server_that_hangs(server: Server, tmp_path: Path) -> None:
    free = threading.Event()

    def hang(body: dict[str, Any]) -> Answer:
        free.wait(20)
        return echo(body)

    server.script = [hang, hang, echo]
    began = time.monotonic()
    made = drafts(server, tmp_path, timeout=0.2)
    free.set()
    assert len(made.samples) == 3
    assert 0.4 <= time.monotonic() - began < 5


def test_an_answer_that_trickles_in_has_a_deadline(server: Server, tmp_path: Path) -> None:
    """Each piece comes in time, the whole does not."""

    def trickle(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(60):
            try:
                handler.wfile.write(b" ")
                time.sleep(0.05)
            except OSError:
                return

    class Trickler(Handler):
        do_POST = trickle

    server.RequestHandlerClass = Trickler
    began = time.monotonic()
    made = drafts(server, tmp_path, prompts=["one"], timeout=0.3)
    assert (made.failed, made.samples) == (1, [])
    assert time.monotonic() - began < 2.5


def test_a_connection_cut_in_the_middle_of_an_answer(server: Server, tmp_path: Path) -> None:
    status, _, content = said("whole")
    server.script = [(status, {"Content-Length": str(len(content) + 50), "Connection": "close"}, content)]
    server.RequestHandlerClass = type("Cut", (Handler,), {"protocol_version": "HTTP/1.0"})
    made = drafts(server, tmp_path, prompts=["one"])
    assert len(server.asked) == 2
    assert (made.samples[0].answer, made.failed) == ("It is: one", 0)


@given(st.one_of(st.text(max_size=20), st.floats().map(str), st.integers().map(str)))
def test_any_header_gives_a_pause_or_none(header: str) -> None:
    pause = general_model._asked_pause(header)
    assert pause is None or pause >= 0


def test_pauses_by_number_and_date() -> None:
    assert general_model._asked_pause("2.5") == 2.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    pause = general_model._asked_pause(later)
    assert pause is not None
    assert 28 < pause <= 30
    assert general_model._asked_pause("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert general_model._asked_pause("soon") is None


def test_no_pause_is_longer_than_a_minute(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(general_model.time, "sleep", pauses.append)
    server.script = [(429, {"Retry-After": "86400"}, b""), (503, {}, b"")]
    assert drafts(server, tmp_path, prompts=["one"]).failed == 0
    assert pauses == [60, pytest.approx(0.02)]
