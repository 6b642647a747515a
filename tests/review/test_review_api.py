"""The review page's API: what it refuses, what it hides, what it stores, and the server that carries it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from sapience.recipe import UserError
from sapience.review.page import LONGEST_BODY, blind, review_app, swapped, unblind
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Draft
from sapience.review.server import serve

DRAFT = Draft.of(
    (("system", "be kind"), ("user", "<b>你好</b>?")), "hello", "zh", "greeting", "drafted by SECRET-MODEL"
)
PAIR = Comparison.of((("user", "2+2?"),), "four", "4", "en", "sums", "SECRET-MODEL against another")
HERE = "http://127.0.0.1:8000"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[ReviewQueue]:
    opened = ReviewQueue.open(queue_url(tmp_path))
    opened.add_drafts([DRAFT])
    opened.add_comparisons([PAIR])
    yield opened
    opened.close()


@pytest.fixture
def client(queue: ReviewQueue) -> TestClient:
    return TestClient(review_app(queue), base_url=HERE)


def test_a_draft_from_question_to_reviewed_answer(client: TestClient, queue: ReviewQueue) -> None:
    item = client.post("/api/drafts/next", json={"annotator": "ada"}).json()["item"]
    assert item == {
        "identity": DRAFT.identity,
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "<b>你好</b>?"}],
        "answers": ["hello"],
        "language": "zh",
        "category": "greeting",
    }
    body = {
        "annotator": "ada",
        "identity": item["identity"],
        "action": "edit",
        "answer": "你好！",
        "reason": "in Chinese",
    }
    assert client.post("/api/decisions", json=body).status_code == 204
    assert [one.answer for one in queue.reviewed()] == ["你好！"]
    assert client.post("/api/drafts/next", json={"annotator": "ada"}).json() == {"item": None}


def test_undo_gives_the_word_back_for_correction(client: TestClient) -> None:
    base = {"annotator": "ada", "identity": DRAFT.identity}
    client.post("/api/decisions", json={**base, "action": "reject", "reason": "cold"})
    undone = client.post("/api/undo", json={"annotator": "ada"}).json()
    assert (undone["kind"], undone["said"], undone["reason"]) == ("draft", "reject", "cold")
    assert undone["item"]["identity"] == DRAFT.identity
    for seen in ("left", "right", "equal"):
        client.post(
            "/api/choices", json={"annotator": "ada", "identity": PAIR.identity, "chosen": seen, "reason": "why"}
        )
        assert client.post("/api/undo", json={"annotator": "ada"}).json()["said"] == seen
    assert client.post("/api/undo", json={"annotator": "ada"}).json()["kind"] is None


def test_progress_counts_and_agrees(client: TestClient) -> None:
    for name, action in (("ada", "accept"), ("bo", "accept")):
        body = {"annotator": name, "identity": DRAFT.identity, "action": action}
        assert client.post("/api/decisions", json=body).status_code == 204
    now = client.get("/api/progress").json()
    assert (now["waiting"], now["accepted"], now["annotators"]) == (1, 1, 2)
    assert now["decisions"] == {"items": 1, "percent": 100.0, "kappa": None, "statistic": "Cohen"}
    assert now["choices"]["percent"] is None


# Blinding


def test_a_choice_means_the_answer_that_was_seen(client: TestClient, queue: ReviewQueue) -> None:
    """Each of forty people prefers the longer answer, wherever it stands: all say the same."""
    orders = set()
    for name in (f"person {n}" for n in range(40)):
        item = client.post("/api/comparisons/next", json={"annotator": name}).json()["item"]
        orders.add(tuple(item["answers"]))
        seen = "left" if len(item["answers"][0]) > len(item["answers"][1]) else "right"
        body = {"annotator": name, "identity": item["identity"], "chosen": seen, "reason": "a word, not a digit"}
        assert client.post("/api/choices", json=body).status_code == 204
    assert orders == {("four", "4"), ("4", "four")}
    (preference,) = queue.preferences()
    assert (preference.chosen, preference.rejected, len(preference.annotators)) == ("four", "4", 40)


@given(st.text(min_size=1, max_size=64), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_blinding_and_its_reverse(annotator: str, identity: str) -> None:
    for seen in ("left", "right", "equal"):
        assert blind(annotator, identity, unblind(annotator, identity, seen)) == seen
    assert unblind(annotator, identity, "left") == ("second" if swapped(annotator, identity) else "first")
    assert swapped(annotator, identity) == swapped(f" {annotator.strip()} ", identity)


def test_orders_are_even() -> None:
    left = sum(swapped("ada", f"{n:016x}") for n in range(2000))
    assert 900 < left < 1100, "6 standard deviations are 134"


def test_no_reply_names_a_source(client: TestClient) -> None:
    replies = [client.get("/"), client.get("/api/progress"), client.get("/api/openapi.json")]
    replies += [client.post(f"/api/{kind}/next", json={"annotator": "ada"}) for kind in ("drafts", "comparisons")]
    client.post("/api/decisions", json={"annotator": "ada", "identity": DRAFT.identity, "action": "accept"})
    replies.append(client.post("/api/undo", json={"annotator": "ada"}))
    for reply in replies:
        assert reply.status_code == 200
        assert "SECRET-MODEL" not in reply.text
        assert '"source"' not in reply.text


# Refusals

DECIDE = {"annotator": "ada", "identity": DRAFT.identity, "action": "accept"}
CHOOSE = {"annotator": "ada", "identity": PAIR.identity, "chosen": "left", "reason": "because"}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("decisions", {**DECIDE, "action": "edit"}, "an edit needs a text"),
        ("decisions", {**DECIDE, "action": "edit", "answer": " \n "}, "an edit needs a text"),
        ("decisions", {**DECIDE, "action": "perhaps"}, "action:"),
        ("decisions", {**DECIDE, "annotator": "x" * 65}, "annotator:"),
        ("decisions", {**DECIDE, "annotator": ""}, "annotator:"),
        ("decisions", {**DECIDE, "annotator": "  "}, "a name has"),
        ("decisions", {**DECIDE, "annotator": 5}, "annotator:"),
        ("decisions", {**DECIDE, "votes": 3}, "votes:"),
        ("decisions", {**DECIDE, "reason": None}, "reason:"),
        ("decisions", {**DECIDE, "reason": "nul \0"}, "cannot be stored"),
        ("decisions", {"annotator": "ada"}, "identity:"),
        ("decisions", [], "the request:"),
        ("choices", {**CHOOSE, "reason": "no"}, "a comparison needs a reason"),
        ("choices", {**CHOOSE, "reason": "     "}, "a comparison needs a reason"),
        ("choices", {**CHOOSE, "chosen": "first"}, "chosen:"),
        ("drafts/next", {}, "annotator:"),
    ],
)
def test_what_cannot_be_taken_is_told_plainly(client: TestClient, path: str, body: object, told: str) -> None:
    reply = client.post(f"/api/{path}", json=body)
    assert reply.status_code == 422
    assert set(reply.json()) == {"detail"}
    assert reply.json()["detail"].startswith(told) or told in reply.json()["detail"]
    assert client.get("/api/progress").json()["annotators"] == 0


@pytest.mark.parametrize("raw", ["{", "", '{"annotator": "\\ud800"}', "[" * 100_000, '{"annotator": NaN}', "\xff"])
def test_broken_json_is_no_server_error(client: TestClient, raw: str) -> None:
    reply = client.post("/api/undo", content=raw.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert isinstance(reply.json()["detail"], str)


@pytest.mark.parametrize("identity", ["0" * 16, "", "../../etc", "x" * 9000])
def test_unknown_items(client: TestClient, identity: str) -> None:
    assert client.post("/api/decisions", json={**DECIDE, "identity": identity}).status_code == 404
    assert client.post("/api/choices", json={**CHOOSE, "identity": identity}).status_code == 404


def test_a_draft_is_no_comparison(client: TestClient) -> None:
    assert client.post("/api/decisions", json={**DECIDE, "identity": PAIR.identity}).status_code == 404
    assert client.post("/api/choices", json={**CHOOSE, "identity": DRAFT.identity}).status_code == 404


def test_long_bodies_are_refused_however_they_come(client: TestClient, queue: ReviewQueue) -> None:
    def body(length: int) -> bytes:
        empty = json.dumps({**DECIDE, "action": "edit", "answer": ""}).encode()
        return json.dumps({**DECIDE, "action": "edit", "answer": "x" * (length - len(empty))}).encode()

    def pieces(data: bytes) -> Iterator[bytes]:
        yield from (data[at : at + 9999] for at in range(0, len(data), 9999))

    headers = {"Content-Type": "application/json"}
    too_long, just_fits = body(LONGEST_BODY + 1), body(LONGEST_BODY)
    assert client.post("/api/decisions", content=too_long, headers=headers).status_code == 413
    assert client.post("/api/decisions", content=pieces(too_long), headers=headers).status_code == 413
    assert queue.reviewed() == []
    assert client.post("/api/decisions", content=pieces(just_fits), headers=headers).status_code == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": HERE, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://127.0.0.1:8000"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "elsewhere.example"}, 403),
        ({"Host": "elsewhere.example:8000", "Origin": "http://elsewhere.example:8000"}, 403),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_other_pages_cannot_write(client: TestClient, headers: dict[str, str], status: int) -> None:
    sent = {"Content-Type": "application/json", **headers}
    reply = client.post("/api/drafts/next", content=b'{"annotator": "ada"}', headers=sent)
    assert reply.status_code == status


def test_a_rebound_name_cannot_read(client: TestClient) -> None:
    for path in ("/", "/api/progress"):
        assert client.get(path, headers={"Host": "elsewhere.example:8000"}).status_code == 403


def test_the_page_needs_nothing_but_itself(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.status_code == 200
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", reply.text)
    assert not re.search(r"\s(style|on[a-z]+)=", reply.text), "inline handlers and styles would need a weaker policy"
    policy = reply.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert client.post("/api/undo", json={}).headers["Cache-Control"] == "no-store"


def test_a_database_that_fails_is_told(client: TestClient, queue: ReviewQueue) -> None:
    with queue._writer.begin() as connection:
        connection.exec_driver_sql("DROP TABLE review_words")
    reply = client.post("/api/decisions", json=DECIDE)
    assert reply.status_code == 503
    assert "nothing was saved" in reply.json()["detail"]


# The server


def test_a_taken_port_names_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken by another program: choose another"):
            serve(tmp_path, None, port, open_browser=False)
    with pytest.raises(UserError, match="port 99999 cannot be used"):
        serve(tmp_path, None, 99999, open_browser=False)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run"):
        serve(tmp_path / "none", None, 0, open_browser=False)


def test_the_server_says_where_it_is_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    queue = ReviewQueue.open(queue_url(tmp_path))
    queue.add_drafts([DRAFT])
    queue.close()
    call = f"serve(pathlib.Path({str(tmp_path)!r}), None, 0, open_browser=False)"
    code = f"import pathlib; from sapience.review.server import serve; {call}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        assert "(1 wait;" in line
        with urllib.request.urlopen(address[0], timeout=20) as reply:
            assert b"Review" in reply.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "review stopped: 0 judged, 1 wait\n", "")
