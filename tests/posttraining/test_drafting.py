"""Drafts by a general model: what is asked, counted, kept and told, through failures and kills."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from general_server import PROMPTS, Answer, Server, drafts, echo, quiet, said, section

from sapience.posttraining.drafting import DRAFTS, MOST_FAILURES, REPLIES, Drafted, _kept_replies, draft_everyday
from sapience.posttraining.samples import read_samples
from sapience.problems.everyday import everyday_conversations
from sapience.recipe import UserError
from sapience.recipe.distill import GeneratorSection

ROOT = Path(__file__).resolve().parent.parent.parent

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


# Trouble that stays


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
