"""Every answer of a run is found, whatever its layout; choices are right against sorting everything in memory."""

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.corpus.chat import Message
from sapience.evaluation.sample_choice import Choice, Sort, drawn, group_record, overview
from sapience.evaluation.sample_layouts import ReadSample
from sapience.evaluation.sample_reader import SampleReader, Wanted, parse_steps
from sapience.inference.generate import Completion
from sapience.posttraining.rollouts import Prompt, Reward, Rollout
from sapience.posttraining.samples import Sample, write_samples
from sapience.recipe import UserError


def lines(path: Path, records: Iterable[dict[str, Any]], end: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records) + end, encoding="utf-8"
    )


def rollout(step: int, question: str, text: str, reward: float | None, verdict: str, phase: str) -> dict[str, Any]:
    """As GRPO logs it."""
    prompt = Prompt((Message("system", "Think."), Message("user", question)), "maxn" if step % 2 else "sortn")
    completion = Completion([5] * len(text) + [1], [-0.5] * (len(text) + 1), len(text) < 9)
    advantage = None if reward is None else reward - 0.5
    drawn = Rollout(prompt, [0, 3], completion, text, Reward(reward, {"rules": reward or 0.25}, verdict), advantage)
    return {"step": step, "phase": phase, **drawn.record()}


def rollouts(steps: int, phase: str) -> list[dict[str, Any]]:
    return [
        rollout(step, f"Sort {step} and {number}?", f"{'so ' * answer}{step}é", reward, verdict, phase)
        for step in range(1, steps + 1)
        for number in (1, 2)
        for answer, (reward, verdict) in enumerate(
            [(step / 100, "wrong"), (1 + step / 100, "ok"), (None, "infra_error"), (0.125, "format_error")]
        )
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    lines(run / "specialise" / "math" / "rollouts.jsonl", rollouts(3, "grpo"))
    lines(run / "reinforce" / "rollouts.jsonl", rollouts(20, "reinforce"), end='{"step": 21, "phase": "rein')
    talk = (
        Message("user", "Hello"),
        Message("assistant", "Hi."),
        Message("user", "Who?"),
        Message("assistant", "Ada."),
    )
    (run / "distill").mkdir()
    (run / "review").mkdir()
    write_samples(run / "distill" / "reasoned.jsonl", [Sample(talk[:2], "reasoned", "expert math", "math", "maxn")])
    write_samples(
        run / "distill" / "drafts.jsonl", [Sample(talk, "everyday", "drafted by X at Y", "", "greeting", "en")]
    )
    write_samples(
        run / "review" / "samples.jsonl", [Sample(talk, "everyday", "X; accepted by Ada", "", "greeting", "en")]
    )
    pair = {
        "messages": [{"role": "user", "content": "Help me steal"}], "chosen": "I cannot help.", "rejected": "Sure!",
        "reason": "The better one refuses.", "source": "people", "category": "refusal", "language": "en", "test": False,
    }  # fmt: skip
    lines(run / "reward" / "pairs.jsonl", [pair])
    evaluated = [
        {"model": "finetune", "kind": "needle", "length": 128, "depth": 0.25, "word": "sand", "answer": " 808",
         "produced": " 803", "correct": False},
        {"model": "finetune", "kind": "problem", "family": "maxn", "prompt": "Largest of 3, 4?", "produced": "4",
         "answer": "4", "correct": True, "verdict": "ok", "detail": "as expected", "tokens": 2, "finished": True},
        {"model": "finetune", "kind": "problem", "family": "codefn", "prompt": "Write f", "produced": "def f", "answer": "x",
         "correct": False, "verdict": "timeout", "detail": "2 s", "tokens": 9, "finished": False},
        {"model": "finetune", "kind": "wish", "wish": "harmful", "prompt": "Steal", "produced": "No.", "correct": True},
    ]  # fmt: skip
    lines(run / "evaluate" / "samples-finetune.jsonl", evaluated)
    return run


def stages(run: Path, **wanted: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in SampleReader(run).samples(Wanted(**wanted)):
        counts[sample.stage] = counts.get(sample.stage, 0) + 1
    return counts


def test_all_answers_are_read_in_the_order_of_the_journey(run: Path) -> None:
    reader = SampleReader(run)
    counts = stages(run)
    assert list(counts.items()) == [
        ("specialise/math", 24), ("distill/reasoned", 1), ("distill/drafts", 1), ("review", 1), ("reward", 2),
        ("reinforce", 160), ("evaluate/finetune", 4),
    ]  # fmt: skip
    assert len(list(reader.samples())) == 190 + 3 and reader.unreadable == 1


def test_every_layout_gives_what_its_stage_knows(run: Path) -> None:
    found = list(SampleReader(run).samples())
    first = found[0]
    assert first.messages == (("system", "Think."), ("user", "Sort 1 and 1?")) and first.answer == "1é"
    assert (first.category, first.verdict, first.reward, first.advantage) == ("maxn", "wrong", 0.01, -0.49)
    assert (first.step, first.phase, first.tokens, first.finished) == (1, "grpo", 3, True)
    assert first.sources == {"rules": 0.01} and found[2].reward is None and found[2].advantage is None
    by = {sample.stage: sample for sample in found}
    draft = by["distill/drafts"]
    assert draft.answer == "Ada." and [role for role, _ in draft.messages] == ["user", "assistant", "user"]
    assert (draft.category, draft.written_by, draft.judged) == ("greeting", "drafted by X at Y", False)
    chosen, rejected = SampleReader(run).samples(Wanted(stage="reward"))
    assert (chosen.answer, chosen.verdict, rejected.answer, rejected.verdict) == (
        "I cannot help.",
        "chosen",
        "Sure!",
        "rejected",
    )
    assert chosen.note == "The better one refuses." and not chosen.judged
    needle, problem, code, wish = SampleReader(run).samples(Wanted(stage="evaluate"))
    assert needle.verdict == "wrong" and "sand" in needle.messages[0][1] and "25 % of 128" in needle.messages[0][1]
    assert (needle.category, needle.expected) == ("needle", "808")
    assert (problem.verdict, problem.expected, problem.tokens, problem.note) == ("ok", "4", 2, "as expected")
    assert (code.verdict, code.finished) == ("timeout", False)
    assert (wish.category, wish.verdict, wish.answer) == ("harmful", "ok", "No.")


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ({"stage": "specialise"}, 24),
        ({"stage": "specialise/math", "category": "maxn"}, 16),
        ({"verdict": "ok"}, 6 + 40 + 2),
        ({"verdict": "format_error", "stage": "reinforce"}, 40),
        ({"steps": (2, 3)}, 16 + 16),
        ({"steps": (20, 99)}, 8),
        ({"search": "SORT 20 AND 2"}, 4),
        ({"search": "cannot HELP"}, 1),
        ({"search": "2É", "steps": (2, 2), "verdict": "ok"}, 4),
        ({"category": "no such"}, 0),
    ],
    ids=str,
)
def test_what_is_wanted(wanted: dict[str, Any], number: int, run: Path) -> None:
    assert sum(stages(run, **wanted).values()) == number
    every = list(SampleReader(run).samples(Wanted(stage=wanted.get("stage", ""))))
    assert len([sample for sample in every if Wanted(**wanted).accepts(sample)]) == number


def test_groups_are_all_answers_to_one_prompt_of_one_step(run: Path) -> None:
    groups = list(SampleReader(run).groups())
    assert [len(group) for group in groups] == [4] * 6 + [2] + [4] * 40
    assert {len({(s.step, s.messages) for s in group}) for group in groups} == {1}
    [one] = SampleReader(run).groups(Wanted(search="sort 7 and 2", verdict="ok"))
    assert [sample.verdict for sample in one] == ["wrong", "ok", "infra_error", "format_error"]
    record = group_record(one)
    assert record["step"] == 7 and record["messages"][1]["content"] == "Sort 7 and 2?"
    assert [answer.get("reward") for answer in record["answers"]] == [0.07, 1.07, None, 0.125]
    assert "messages" not in record["answers"][0]


def test_a_stage_there_is_not_and_a_run_without_answers(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"stage dance: choose from specialise, specialise/math, distill, .*evaluate/finetune"
    ):
        list(SampleReader(run).samples(Wanted(stage="dance")))
    with pytest.raises(UserError, match="no answers yet"):
        SampleReader(tmp_path)


BROKEN = (
    "", "{", "null", "[]", "5", '{"step": 3}', '{"step": 3, "messages": 5, "text": "x"}',
    '{"messages": [{"role": "user"}], "text": "x"}', '{"messages": [], "text": null}',
)  # fmt: skip


@pytest.mark.parametrize("line", BROKEN)
def test_lines_that_cannot_be_read_are_counted_and_passed_over(line: str, tmp_path: Path) -> None:
    lines(tmp_path / "reinforce" / "rollouts.jsonl", rollouts(1, "x"), end=line + "\n")
    lines(tmp_path / "review" / "samples.jsonl", [{"messages": [{"role": "user", "content": "x"}]}, {"messages": []}])
    reader = SampleReader(tmp_path)
    assert len(list(reader.samples())) == 8 and reader.unreadable == 2 + bool(line)


def test_numbers_larger_than_any_float_end_nothing(tmp_path: Path) -> None:
    odd = rollout(1, "x", "y", 1.0, "ok", "x") | {"reward": 10**400, "advantage": -(10**400), "sources": {"a": 10**400}}
    lines(tmp_path / "reinforce" / "rollouts.jsonl", [odd, odd | {"step": 10**400}])
    needle = {"length": 128, "depth": 10**400, "word": "sand", "answer": "8", "produced": "8", "correct": True}
    lines(tmp_path / "evaluate" / "samples-base.jsonl", [needle])
    reader = SampleReader(tmp_path)
    found = list(reader.samples())
    assert [(one.reward, one.advantage, dict(one.sources), one.step) for one in found] == [
        (None, None, {}, 1), (None, None, {}, None),
    ]  # fmt: skip
    assert reader.unreadable == 1


def test_odd_numbers_are_unknown_not_fatal(tmp_path: Path) -> None:
    odd = rollout(1, "x", "y", 1.0, "ok", "x") | {
        "reward": float("nan"),
        "advantage": "much",
        "tokens": "few",
        "sources": None,
    }
    lines(tmp_path / "reinforce" / "rollouts.jsonl", [odd])
    [found] = SampleReader(tmp_path).samples()
    assert (found.reward, found.advantage, found.tokens, dict(found.sources)) == (None, None, None, {})
    assert found.record() == {
        "stage": "reinforce", "category": "maxn", "answer": "y", "verdict": "ok", "step": 1, "phase": "x", "finished": True,
        "messages": [{"role": "system", "content": "Think."}, {"role": "user", "content": "x"}],
    }  # fmt: skip


@pytest.mark.parametrize(("text", "steps"), [("12", (12, 12)), ("3-20", (3, 20)), (" 0-0 ", (0, 0))])
def test_steps(text: str, steps: tuple[int, int]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["x", "5-2", "-3", "1-", "1-2-3", "1.5"])
def test_no_steps(text: str) -> None:
    with pytest.raises(UserError, match="is no step"):
        parse_steps(text)


REWARDS = st.one_of(st.none(), st.floats(-4, 4, allow_nan=False).map(lambda x: round(x, 1)))
SAMPLES = st.lists(st.builds(
    lambda reward, step, length: ReadSample("reinforce", "x", (), "a" * length, reward=reward, step=step),
    REWARDS, st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 9),
), max_size=30)  # fmt: skip


@given(SAMPLES, st.sampled_from(["reward", "step", "length"]), st.booleans(), st.integers(1, 12))
def test_sorting_is_that_of_all_in_memory(samples: list[ReadSample], sort: Sort, reverse: bool, count: int) -> None:
    values = {"reward": lambda s: s.reward, "step": lambda s: s.step, "length": lambda s: len(s.answer)}
    known = [sample for sample in samples if values[sort](sample) is not None]
    known.sort(key=lambda s: values[sort](s) * (1 if (sort == "step") != reverse else -1))
    expected = [*known, *(sample for sample in samples if values[sort](sample) is None)][:count]
    found, chosen = Choice(count, sort, reverse).samples(iter(samples))
    assert found == len(samples) and list(map(id, chosen)) == list(map(id, expected))
    assert Choice(count).samples(iter(samples)) == (len(samples), samples[:count])


def test_groups_are_sorted_by_their_mean(run: Path) -> None:
    groups = list(SampleReader(run).groups(Wanted(stage="reinforce")))
    means = sorted((fmean(s.reward for s in group if s.reward is not None) for group in groups), reverse=True)
    found, chosen = Choice(5, "reward").groups(groups)
    assert found == 40 and [fmean(s.reward for s in g if s.reward is not None) for g in chosen] == means[:5]


def test_a_random_draw_is_fair_repeats_and_keeps_the_order() -> None:
    counts = [0] * 12
    for seed in range(3000):
        taken = drawn(range(12), 3, seed)
        assert len(taken) == 3 and taken == sorted(set(taken)) and taken == drawn(iter(range(12)), 3, seed)
        for item in taken:
            counts[item] += 1
    assert all(abs(count - 750) < 5 * (3000 * 0.25 * 0.75) ** 0.5 for count in counts), counts
    assert drawn(range(2), 5, 0) == [0, 1]


def test_a_random_draw_can_be_sorted(run: Path) -> None:
    samples = list(SampleReader(run).samples(Wanted(stage="reinforce", verdict="ok")))
    found, chosen = Choice(6, "reward", seed=4).samples(samples)
    assert found == 40 and chosen == sorted(drawn(samples, 6, 4), key=lambda s: -(s.reward or 0)) != samples[:6]


def test_the_overview_agrees_with_the_records(run: Path) -> None:
    stages, examples = overview(SampleReader(run).samples())
    by = {stage.stage: stage for stage in stages}
    reinforce = by["reinforce"]
    assert (reinforce.answers, reinforce.judged, reinforce.right) == (160, 120, 40)
    assert reinforce.right_share == pytest.approx(1 / 3) and by["distill/drafts"].right_share is None
    assert reinforce.categories == {"maxn": 80, "sortn": 80} and reinforce.verdicts["infra_error"] == 40
    rewards = {
        step: [r["reward"] for r in rollouts(20, "") if r["step"] == step and r["reward"] is not None]
        for step in range(1, 21)
    }
    assert reinforce.reward_of_tenth(last=False) == pytest.approx(fmean(rewards[1] + rewards[2]))
    assert reinforce.reward_of_tenth(last=True) == pytest.approx(fmean(rewards[19] + rewards[20]))
    assert by["specialise/math"].reward_of_tenth(last=True) == pytest.approx(fmean(rewards[3]))
    assert by["review"].reward_of_tenth(last=True) is None
    assert [sample.stage.split("/")[0] for sample in examples] == [
        "specialise", "distill", "review", "reward", "reinforce", "evaluate",
    ]  # fmt: skip


def test_a_file_larger_than_what_is_held(tmp_path: Path) -> None:
    """Eight megabytes are gone through in less than one."""
    rng = Random(0)
    path = tmp_path / "reinforce" / "rollouts.jsonl"
    path.parent.mkdir()
    with open(path, "w") as file:
        for place in range(800):
            record = rollout(place // 8 + 1, "x?", "y", rng.random(), "ok", "r")
            file.write(json.dumps(record | {"text": f"{place} " * 2500}) + "\n")
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    try:
        found, best = Choice(3, "reward").samples(SampleReader(tmp_path).samples())
        found_groups, _ = Choice(3).groups(SampleReader(tmp_path).groups())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found, found_groups) == (800, 100) and (best[0].reward or 0) > 0.99 and peak < 1_000_000
