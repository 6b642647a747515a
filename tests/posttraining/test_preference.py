"""Pairs keep their reasons and their side; files load in every layout; drawn pairs are alike in all but truth."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.corpus.chat import Message
from sapience.inference.generate import Completion
from sapience.posttraining.drawn_pairs import CODE_REASON, LEEWAY, REASON, JudgedAnswer, JudgedGroup, plausible_pairs
from sapience.posttraining.preference import (
    PreferencePair,
    assembled,
    is_held_out,
    pairs_of_people,
    pairs_of_the_project,
    read_pairs,
    write_pairs,
)
from sapience.posttraining.preference_files import NO_REASON, load_pairs
from sapience.posttraining.rollouts import Prompt, Reward, Rollout
from sapience.problems.everyday import written_pairs
from sapience.problems.families import generate
from sapience.recipe.errors import UserError
from sapience.review.records import Preference


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def pair(prompt: str = "Hi", chosen: str = "Hello!", rejected: str = "Go.", **changes: Any) -> PreferencePair:
    values = {"reason": "It is kind.", "source": "s", "category": "c", "language": "en", "test": False, "kind": "file"}
    return PreferencePair(asked(prompt), chosen, rejected, **(values | changes))


def test_written_pairs_keep_their_split_and_every_pair_has_a_reason() -> None:
    pairs = pairs_of_the_project(written_pairs())
    assert [p.test for p in pairs] == [w.split == "test" for w in written_pairs()]
    assert all(p.reason and p.reason == w.reason for p, w in zip(pairs, written_pairs(), strict=True))
    assert assembled(pairs).pairs == pairs and len(assembled(pairs).held_out) == 52


def test_the_side_hangs_on_the_prompt_alone_and_the_share_is_kept() -> None:
    prompts = [f"What is {n} and {n * n}?" for n in range(4000)]
    held = [is_held_out(asked(p), 0.15) for p in prompts]
    assert sum(held) / len(held) == pytest.approx(0.15, abs=0.02)
    assert held == [is_held_out(asked(p.replace(" ", "\n ")), 0.15) for p in prompts]


def test_each_pair_counts_once_contradictions_are_left_out_and_no_prompt_is_on_both_sides() -> None:
    pairs = [
        pair("a", "x", "y"),
        pair("a", "x", "y", reason="another reason"),
        pair("a", "y", "x"),
        pair("b", "x", "y"),
        pair("b", "x", "z", test=True),
        pair("b ", "v", "w"),
    ]
    found = assembled(pairs)
    assert [(p.messages[0].content, p.rejected) for p in found.learned] == [("a", "y")]
    assert [(p.messages[0].content, p.rejected) for p in found.held_out] == [("b", "y"), ("b", "z"), ("b ", "w")]
    assert found.left_out == {"the same pair again": 1, "contradicts an earlier pair": 1}


def test_people_are_named_and_what_no_chat_model_is_asked_is_told() -> None:
    said = [
        Preference((("user", "Hi"),), "Hello!", "Go.", "kinder\nwarmer", ("Ada", "Ben"), "en", "greeting", "run demo"),
        Preference((("system", "Hi"),), "Hello!", "Go.", "kinder", ("Ada",), "en", "greeting", "elsewhere"),
    ]
    pairs, bad = pairs_of_people(said, 0.15)
    assert [(p.source, p.reason, p.kind) for p in pairs] == [
        ("run demo; compared by Ada, Ben", "kinder\nwarmer", "people")
    ]
    assert len(bad) == 1 and "in turn" in bad[0]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_files_of_every_layout_load_and_bad_lines_are_named(tmp_path: Path) -> None:
    good = [
        {"prompt": "q", "chosen": "a", "rejected": "b", "reason": "shorter"},
        {"messages": [turn("user", "q")], "chosen": "a", "rejected": "b"},
        {"prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]},
        {
            "prompt": "q",
            "chosen": [turn("user", "q"), turn("assistant", "a")],
            "rejected": [turn("user", "q"), turn("assistant", "b")],
        },
        {
            "chosen": [turn("user", "q"), turn("assistant", "a")],
            "rejected": [turn("user", "q"), turn("assistant", "b")],
        },
    ]
    bad: list[tuple[Any, str]] = [
        ("not json", "not JSON"),
        ([], "not a JSON object"),
        ({"prompt": "q", "chosen": "a"}, "'rejected' is missing"),
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "q", "chosen": " ", "rejected": "a"}, "'chosen' is missing, empty"),
        ({"prompt": "q", "chosen": [turn("user", "a")], "rejected": "b"}, "does not end with the assistant"),
        ({"prompt": "q", "chosen": ["a"], "rejected": "b"}, "no object"),
        ({"prompt": [turn("assistant", "q")], "chosen": "a", "rejected": "b"}, "in turn"),
        ({"messages": [turn("user", "q"), turn("assistant", "r")], "chosen": "a", "rejected": "b"}, "user"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "reason": 5}, "have to be texts"),
        ({"prompt": "q", "chosen": "\ud800", "rejected": "b"}, "surrogate"),
        (
            {
                "chosen": [turn("user", "q"), turn("assistant", "a")],
                "rejected": [turn("user", "other"), turn("assistant", "b")],
            },
            "different conversations",
        ),
    ]
    lines = [*map(json.dumps, good), *(line if isinstance(line, str) else json.dumps(line) for line, _ in bad)]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines) + "\n")
    pairs, reasons = load_pairs(path, 0.15)
    assert [(p.messages, p.chosen, p.rejected, p.category) for p in pairs] == [(asked("q"), "a", "b", "mine")] * 5
    assert [p.reason for p in pairs] == ["shorter"] + [NO_REASON] * 4
    assert len(reasons) == len(bad)
    for number, (told, (_, why)) in enumerate(zip(reasons, bad, strict=True), start=6):
        assert told.startswith(f"line {number}: ") and why in told


def test_a_file_that_is_missing_or_useless_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read.*reward\.pairs"):
        load_pairs(tmp_path / "none.jsonl", 0.15)
    (tmp_path / "empty.jsonl").write_text('\n{"prompt": "q"}\n')
    with pytest.raises(UserError, match="no usable pair"):
        load_pairs(tmp_path / "empty.jsonl", 0.15)


def test_written_and_read_pairs_are_the_same(tmp_path: Path) -> None:
    pairs = [*pairs_of_the_project(written_pairs())[:40], pair("line\u2028separator", "a\n\nb", "你好")]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs


def answer(text: str, tokens: int, verdict: str = "wrong", finished: bool = True) -> JudgedAnswer:
    return JudgedAnswer(text, tokens, finished, verdict)


def group(*answers: JudgedAnswer, number: int = 0, code: bool = False) -> JudgedGroup:
    return JudgedGroup(asked(f"problem {number}"), "maxn", "en", CODE_REASON if code else REASON, answers)


def test_the_loser_is_a_plausible_one_of_like_length() -> None:
    found = plausible_pairs(
        [
            group(
                answer("right", 20, "ok"),
                answer("no box", 20, "format_error"),
                answer("far", 40),
                answer("near", 26),
                answer("cut off", 21, finished=False),
                answer("unknown", 20, "infra_error"),
                answer("right", 20, "wrong"),
            ),
            group(answer("r", 5, "ok"), answer("no box", 9, "format_error"), number=1, code=True),
            group(answer("r", 5, "ok"), answer("s", 6, "ok"), number=2),
            group(answer("r", 5), answer("s", 6, "infra_error"), number=3),
        ],
        0.15,
    )
    assert [(p.chosen, p.rejected) for p in found.pairs] == [("right", "near"), ("r", "no box")]
    assert found.without_contrast == 2 and found.length_difference == -5.0
    assert "program" in found.pairs[1].reason and "final answer" in found.pairs[0].reason


@given(st.integers(0, 10**6))
def test_lengths_balance_where_the_answers_allow_it(seed: int) -> None:
    """Right answers are longer on average; every group has a near one on either side."""
    rng = Random(seed)
    groups = []
    for number in range(60):
        base = rng.randint(10, 60)
        lengths = [("ok", base), ("ok", base + rng.randint(5, 30))]
        lengths += [("wrong", base - rng.randint(0, 2)), ("wrong", base + rng.randint(1, 3))]
        made = [answer(f"{kind} {i}", tokens, kind) for i, (kind, tokens) in enumerate(lengths)]
        groups.append(group(*made, number=number))
    found = plausible_pairs(groups, 0.15)
    lengths_of = {(g.messages, a.text): a.tokens for g in groups for a in g.answers}
    each = [lengths_of[p.messages, p.chosen] - lengths_of[p.messages, p.rejected] for p in found.pairs]
    assert len(each) == 60 and max(map(abs, each)) <= 2 + LEEWAY
    assert found.length_difference == pytest.approx(sum(each) / 60)
    assert abs(sum(each)) <= 2 + LEEWAY


def test_groups_are_made_of_rollouts_without_what_pairs_do_not_need() -> None:
    problem = generate("maxn", "train", 1, 0)[0]
    rewards = [Reward(1.0, {}, "ok"), Reward(0.0, {}, "wrong")]
    rollouts = [
        Rollout(Prompt.of(problem), [1, 2], Completion([5] * n, [-0.5] * n, True), f"text {n}", reward)
        for n, reward in enumerate(rewards, start=3)
    ]
    made = JudgedGroup.of(rollouts)
    assert made.answers == (answer("text 3", 3, "ok"), answer("text 4", 4))
    assert made.messages[-1].content == problem.question and made.category == "maxn" and made.reason == REASON
