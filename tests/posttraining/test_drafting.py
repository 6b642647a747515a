"""Drafts by a general model against a real server on this machine: what is asked, retried, counted, kept and told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.posttraining import general_model
from sapience.posttraining.drafting import DRAFTS, MOST_FAILURES, REPLIES, Drafted, _kept_replies, draft_everyday
from sapience.posttraining.samples import read_samples
from sapience.problems.everyday import everyday_conversations
from sapience.recipe import UserError
from sapience.recipe.distill import GeneratorSection

ROOT = Path(__file__).resolve().parent.parent.parent
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
def servers() -> Iterator[Callable[[], Server]]:
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


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no key of the user's own, no long pauses."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(general_model, "FIRST_PAUSE_SECONDS", 0.01)


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


# What is asked, and what becomes of it


def test_answers_become_samples(server: Server, tmp_path: Path) -> None:
    made = drafts(server, tmp_path, temperature=0.25, answer_tokens=99)
    assert [sample.answer for sample in made.samples] == [f"It is: {prompt}" for prompt in PROMPTS]
    assert [sample.messages[0].content for sample in made.samples] == PROMPTS
    assert {(s.kind, s.family, s.source) for s in made.samples} == {
        ("everyday", "drafted", f"drafted by big at {server.url}")
    }
    assert [sample.language for sample in made.samples] == ["en", "zh", "en"]
    assert (made.failed, made.left_out) == (0, {})
    assert read_samples(tmp_path / DRAFTS) == made.samples
    assert set(server.paths) == {"/v1/chat/completions"}
    seeds = {body.pop("seed") for body in server.asked}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert server.asked[0] == {
        "model": "big", "messages": [{"role": "user", "content": PROMPTS[0]}], "temperature": 0.25, "max_tokens": 99,
    }  # fmt: skip


def test_seeds_follow_the_run_and_the_wish(servers: Callable[[], Server], tmp_path: Path) -> None:
    seeds = []
    for number, (prompts, seed) in enumerate([(PROMPTS, 7), (PROMPTS[::-1], 7), (PROMPTS, 8)]):
        server = servers()
        folder = tmp_path / str(number)
        folder.mkdir()
        draft_everyday(section(server, prompts=prompts), seed, folder, quiet)
        seeds.append({body["messages"][0]["content"]: body["seed"] for body in server.asked})
    assert seeds[0] == seeds[1]
    assert not set(seeds[0].values()) & set(seeds[2].values())


def test_without_prompts_the_written_wishes_are_asked_once_each(server: Server, tmp_path: Path) -> None:
    made = drafts(server, tmp_path, prompts=[], limit=60)
    expected: list[tuple[Any, ...]] = []
    for conversation in everyday_conversations():
        first = next(i for i, (role, _) in enumerate(conversation.turns) if role == "user")
        wish = (conversation.turns[: first + 1], conversation.category, conversation.language)
        if wish[0] not in [one[0] for one in expected]:
            expected.append(wish)
    found = [
        (tuple((m.role, m.content) for m in sample.messages[:-1]), sample.family, sample.language)
        for sample in made.samples
    ]
    assert found == expected[:60]
    assert any(len(turns) == 2 for turns, _, _ in found), "a system message comes along"


def test_the_same_prompt_is_asked_once_and_the_limit_holds(server: Server, tmp_path: Path) -> None:
    made = drafts(server, tmp_path, prompts=["one", " one ", "two", "three"], limit=2)
    assert server.wishes == ["one", "two"]
    assert len(made.samples) == 2


def test_blank_prompts_are_refused_by_the_recipe() -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        GeneratorSection(url="http://h/v1", model="m", prompts=["  "])


def test_answers_of_no_use_are_counted_and_left_out(server: Server, tmp_path: Path) -> None:
    refusal = json.dumps({"error": {"code": "content_filter", "message": "no"}}).encode()
    server.script = [
        said("half an ans", "length"), said(" \n\t"), said(None, "tool_calls"), said(["parts"]), said("a \ud800 b"),
        said("a \0 b"), said("shortened", "content_filter"), (400, {}, refusal), said("kept", None),
    ]  # fmt: skip
    made = drafts(server, tmp_path, prompts=[f"wish {n}" for n in range(9)])
    assert [sample.answer for sample in made.samples] == ["kept"]
    assert made.left_out == {"cut off": 1, "empty": 1, "not text": 4, "filtered by the server": 2}
    again = drafts(server, tmp_path, prompts=[f"wish {n}" for n in range(9)])
    assert (again, len(server.asked)) == (made, 9), "nor are they asked for again"


def test_no_usable_answer_at_all(server: Server, tmp_path: Path) -> None:
    server.rule = lambda body: said("")
    assert drafts(server, tmp_path) == Drafted([], 0, {"empty": 3})
    assert (tmp_path / DRAFTS).read_bytes() == b""


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


def test_a_server_out_of_order_stops_the_stage_and_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    prompts = [f"wish {n}" for n in range(MOST_FAILURES + 2)]
    server.rule = lambda body: echo(body) if len(server.asked) < 3 else (502, {}, b"bad \x1b[31mgateway" + b"!" * 999)
    with pytest.raises(UserError, match=r"5 wishes in a row, each asked three times: error 502: bad \[31mgateway") as e:
        drafts(server, tmp_path, prompts=prompts)
    assert len(str(e.value)) < 700
    assert len(server.asked) == 2 + 3 * MOST_FAILURES
    server.rule = echo
    assert len(drafts(server, tmp_path, prompts=prompts).samples) == len(prompts)
    assert server.wishes[-MOST_FAILURES:] == prompts[2:]


def test_failures_here_and_there_do_not_stop_it(server: Server, tmp_path: Path) -> None:
    server.rule = lambda body: (500, {}, b"") if body["messages"][0]["content"].endswith("0") else echo(body)
    made = drafts(server, tmp_path, prompts=[f"wish {n}{digit}" for n in range(MOST_FAILURES + 1) for digit in "01"])
    assert (len(made.samples), made.failed) == (MOST_FAILURES + 1, MOST_FAILURES + 1)


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


# Kill and resume

SCRIPT = """
import sys
from contextlib import contextmanager
from pathlib import Path
from sapience.posttraining.drafting import draft_everyday
from sapience.recipe.distill import GeneratorSection

class Bar:
    def advance(self, amount=1, **figures): pass

@contextmanager
def quiet(description, total):
    yield Bar()

draft_everyday(GeneratorSection.model_validate_json(sys.argv[1]), 7, Path(sys.argv[2]), quiet)
"""


def test_a_kill_loses_the_draft_under_way_alone(servers: Callable[[], Server], tmp_path: Path) -> None:
    server = servers()
    prompts = [f"wish {n}" for n in range(6)]
    reached, free = threading.Event(), threading.Event()

    def hang(body: dict[str, Any]) -> Answer:
        reached.set()
        free.wait(30)
        return echo(body)

    server.script = [echo, said("cut", "length"), echo, hang]
    given = section(server, prompts=prompts)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, given.model_dump_json(), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_PROXY": "*", "OMP_NUM_THREADS": "1"},
    )
    try:
        assert reached.wait(60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        free.set()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / DRAFTS).exists()
    with open(tmp_path / REPLIES, "ab") as file:
        file.write(b'{"request": "0123456789abcdef", "text": "half a')
    made = draft_everyday(given, 7, tmp_path, quiet)
    assert server.wishes == prompts[:4] + prompts[3:]
    assert [sample.answer for sample in made.samples] == [f"It is: wish {n}" for n in (0, 2, 3, 4, 5)]
    assert made.left_out == {"cut off": 1}
    assert len(_kept_replies(tmp_path / REPLIES)) == 6

    undisturbed = servers()
    undisturbed.script = [echo, said("cut", "length")]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    straight = draft_everyday(section(undisturbed, prompts=prompts), 7, fresh, quiet)
    assert [sample.messages for sample in straight.samples] == [sample.messages for sample in made.samples]
    assert [body["seed"] for body in undisturbed.asked] == [
        body["seed"] for body in server.asked[:4] + server.asked[5:]
    ]


def test_damaged_lines_are_asked_for_again(server: Server, tmp_path: Path) -> None:
    made = drafts(server, tmp_path)
    lines = (tmp_path / REPLIES).read_bytes().splitlines(keepends=True)
    spoiled = [lines[0], b"\0" * 40 + b"\n", b'{"request": 3, "text": "x", "finish": ""}\n', b"[]\n", lines[2]]
    (tmp_path / REPLIES).write_bytes(b"".join(spoiled))
    assert drafts(server, tmp_path) == made
    assert server.wishes[3:] == [PROMPTS[1]]


@pytest.mark.parametrize("change", [{"model": "other"}, {"temperature": 0.1}, {"answer_tokens": 5}])
def test_replies_to_another_request_do_not_count(change: dict[str, Any], server: Server, tmp_path: Path) -> None:
    drafts(server, tmp_path)
    drafts(server, tmp_path, **change)
    assert len(server.asked) == 6
    drafts(server, tmp_path, timeout=50, key_variable="OTHER")
    assert len(server.asked) == 6
