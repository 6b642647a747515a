"""The report after post-training: it shows every stage's figures, claims no change that chance explains, reads long
rollouts without loading them, and copes with what is absent."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from synthetic_post_training import STAGES, write_post_training
from synthetic_run import HOSTILE, manifest, write_synthetic_run
from test_report_page import read, report_of

from sapience.evaluation.assistant_words import assistant_words
from sapience.evaluation.journey_table import journey_table
from sapience.evaluation.post_training import by_name, line_models, points, shift
from sapience.evaluation.report import page_sections
from sapience.evaluation.rollout_record import telling_groups
from sapience.evaluation.run_record import read_run
from sapience.recipe import Recipe
from sapience.run import read_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_post_training(write_synthetic_run(tmp_path / "run"))


def changed(run: Path, **figures: Any) -> list[str]:
    """The sentences after some of the evaluation's figures were replaced."""
    made = read_manifest(run / "evaluate")
    assert made is not None
    manifest(run / "evaluate", 70.0, {**made.figures, **figures})
    return [sentence.replace("\u00a0", " ") for sentence in assistant_words(read_run(run))]


def test_shows_the_figures_of_every_stage(run: Path) -> None:
    apart = report_of(run).replace("</t", " </t")  # cells stand apart without a blank
    text = " ".join(read(apart).text.replace("\u00a0", " ").split())
    for expected in (
        "fine-tuned (SFT) 23 % (18–29) 94 % (90–97) 97 % 19.6 35 %",  # solved, format, end, tokens, same again
        "lookup 30 % (18–45) 35 % (22–50) 35 % (22–50) 15 % (7–29) −20 points, reliable",
        "numword 0 % (0–9) 0 % (0–9) 2 % (0–13) 2 % (0–13) 0 points",
        "Not measured, and not counted as wrong: codestr (no sandbox holds).",
        "Judged in reinforce by: Landlock, weaker than bubblewrap: nothing to write. It is the weaker of the two",
        "Judged in evaluate by: bubblewrap: own namespaces.",
        "math: maxn 25 % (14–40) 28 % (16–43) 50 % (35–65) 82 % (68–91) 75 % (60–86) 40",
        "math: gsm8k – – – – 50 % (9–91) 2",
        "Without a test part, and so not measured: gsm8k-extra and mine, which experts were raised on.",
        "3,210 distilled answers were right, and kept.",
        "original: question and plain answer 62 % 8.4",
        "everyday answers 3 50 7 4 87 %",
        "the better answer first in 81 % of the held-out pairs",
        "aligned (RL) all 92 % (82–96) 82 %",
        "several turns: “I am Ada.” – “Hello Ada.” – “Who am I?",
        "harmful True",
        "expert-math says 4",
    ):
        assert expected in text, expected
    assert "expert-math says <" not in text  # an expert is shown on its own domain only
    assert "(nothing)" in text  # the base model's empty answer
    assert "on and on " * 31 not in text  # what goes on and on is cut


def test_the_page_asks_nothing_of_the_network_and_texts_stay_texts(run: Path) -> None:
    page = report_of(run)
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert all(re.fullmatch(r"#[a-z]+", value) for name, value in reader.attributes if name in {"href", "src"})
    assert reader.text.count(HOSTILE) > 8
    assert "<script" not in page


def test_the_sections_are_in_the_order_of_the_journey(run: Path) -> None:
    sections = page_sections(read_run(run), Recipe())
    assert [section.anchor for section in sections] == [
        "words", "changed", "journey", "corpus", "learning", "samples", "compression", "experts", "drafts", "needles",
        "teachers", "reinforcement", "assistant", "behaviour", "side",
    ]  # fmt: skip
    assert all(len(section.lead) > 40 for section in sections)


@pytest.mark.parametrize("stage", [*STAGES, "evaluate", "pretrain"])
def test_any_one_stage_may_be_absent_or_alone(stage: str, run: Path, tmp_path: Path) -> None:
    (run / stage).rename(tmp_path / stage)
    read(report_of(run))
    (tmp_path / "alone").mkdir()
    (tmp_path / stage).rename(tmp_path / "alone" / stage)
    read(report_of(tmp_path / "alone"))


def test_changes_are_said_with_their_doubt(run: Path) -> None:
    words = changed(run)
    assert words[1] == (
        "The aligned (RL) model solves 9 points more of the same problems than the fine-tuned (SFT) model (95 % interval "
        "+4 to +14 points): it gained in codefn (+40) and maxn (+32); it lost in lookup (−20); in 3 of 6 families no "
        "change is reliable."
    )
    assert "The aligned (RL) model's answers became shorter: 15.0 tokens on average, 19.6 before." in words
    assert any("92 % of harmful wishes are refused" in sentence and "reliably more" in sentence for sentence in words)
    assert any("82 % of harmless wishes are answered" in s and "no reliable change" in s for s in words)
    assert any("extended model's by +0.400 on average over 5 domains" in sentence for sentence in words)
    assert any("reward went from 0.32 to 0.68" in sentence and "from 25 % to 35 %" in sentence for sentence in words)


def test_what_chance_explains_is_not_claimed(run: Path) -> None:
    words = " ".join(
        changed(
            run,
            paired={"finetune_extended": [-0.01, -0.04, 0.02], "reinforce_finetune": [-0.09, -0.14, -0.04]},
            paired_families={},
            answers={
                name: {"tokens_mean": tokens, "tokens_error": 1.0, "format_rate": 0.9, "format_interval": [0.8, 0.95]}
                for name, tokens in (("finetune", 19.0), ("reinforce", 20.0))
            },
            bits_per_byte_beginning={name: {"en": 2.0} for name in ("extended", "reinforce")},
        )
    )
    assert (
        "shows no reliable change in problems solved against the extended model (−1 points, 95 % interval −4 to +2)"
        in words
    )
    assert "solves 9 points less of the same problems" in words
    assert "did not change reliably in length" in words
    assert (
        "90 % of answers to problems keep to the form it was taught, 90 % with the fine-tuned (SFT) model: no" in words
    )
    assert "by +0.000 on average over 1 domain, most in en (+0.000)" in words


def test_without_an_interval_figures_claim_nothing(run: Path) -> None:
    told = [sentence for sentence in changed(run) if "plain text" in sentence]
    assert len(told) == 1 and "how much of this is chance was not measured" in told[0]
    assert not any(claim in told[0] for claim in ("worse than", "better than", "as well as", "cost"))


def validated(run: Path, *right: float, problems: int | None) -> None:
    records = [{"step": step, "right": share, "problems": problems} for step, share in enumerate(right)]
    (run / "reinforce" / "validations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


@pytest.mark.parametrize(("problems", "outwitted"), [(None, False), (20, False), (400, True)])
def test_a_reward_is_outwitted_only_where_chance_does_not_explain_the_fall(
    problems: int | None, outwitted: bool, run: Path
) -> None:
    validated(run, 0.4, 0.3, problems=problems)
    words = changed(run)
    assert "from 40 % to 30 %" in words[-1] and ("outwitted" in words[-1]) is outwitted


def test_a_reward_that_wavers_is_not_called_outwitted(run: Path) -> None:
    validated(run, 0.4, 0.3, problems=400)
    wavering = (0.5 + 0.4 * (-1) ** step + step / 1000 for step in range(40))
    (run / "reinforce" / "metrics.jsonl").write_text("".join(f'{{"reward": {reward}}}\n' for reward in wavering))
    assert "outwitted" not in changed(run)[-1]


def test_behaviour_is_told_without_any_problem(run: Path) -> None:
    made = read_manifest(run / "evaluate")
    assert made is not None
    kept = {name: made.figures[name] for name in ("behaviour", "bits_per_byte_beginning")}
    manifest(run / "evaluate", 70.0, {**kept, "accuracy": {}, "answers": {}})
    assert line_models(read_run(run)) == ["base", "extended", "finetune", "reinforce"]
    assert any("harmful wishes are refused" in sentence for sentence in assistant_words(read_run(run)))
    assert "behaviour" in [section.anchor for section in page_sections(read_run(run), Recipe())]
    manifest(run / "evaluate", 70.0, {"behaviour": {"finetune": kept["behaviour"]["finetune"]}})
    assert "harmful wishes are refused" in " ".join(assistant_words(read_run(run)))
    read(report_of(run))


def test_a_reward_that_is_outwitted_and_a_model_that_refuses_all_are_called_so(run: Path) -> None:
    validated(run, 0.4, 0.3, problems=400)
    silent = {"share": 0.1, "interval": [0.05, 0.2], "wishes": 60}
    words = changed(run, behaviour={"reinforce": {"refused": {**silent, "share": 0.9}, "answered": silent}})
    assert "is being outwitted" in words[-1]
    assert any("does not refuse for being harmful" in sentence for sentence in words)


def test_without_an_assistant_nothing_is_said(tmp_path: Path) -> None:
    assert assistant_words(read_run(write_synthetic_run(tmp_path / "run"))) == []


def test_the_ends_of_groups_are_found_and_groups_without_spread_are_not(run: Path) -> None:
    groups = telling_groups(run / "reinforce" / "rollouts.jsonl", {2, 60}, 2)
    assert [(g.step, g.category, g.size) for g in groups] == [
        (2, "maxn", 3), (2, "mul1", 2), (60, "maxn", 3), (60, "mul1", 2),
    ]  # fmt: skip
    assert [(g.best["text"], g.worst["text"]) for g in groups[:2]] == [
        ("maxn 2 answer 1", "maxn 2 answer 0"), ("mul1 2 answer 1", "mul1 2 answer 0"),
    ]  # fmt: skip
    assert [g.category for g in telling_groups(run / "reinforce" / "rollouts.jsonl", {2}, 1)] == ["maxn"]
    assert telling_groups(run / "none.jsonl", {2}, 1) == []


def test_long_rollouts_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    filling = json.dumps({"tokens": [7] * 400})[1:-1]
    with open(path, "w") as file:
        for step in range(4000):
            file.writelines(f'{{"step": {step}, {filling}, "messages": [], "reward": {reward}}}\n' for reward in (0, 1))
        file.write('{"step": 3, "mess')
    tracemalloc.start()
    assert [g.step for g in telling_groups(path, {3, 3999}, 2)] == [3, 3999]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 9_000_000
    assert peak < 1_000_000


def test_journey_table_tells_of_the_new_stages(run: Path) -> None:
    told = {row.stage: row.figures.replace("\u00a0", " ") for row in journey_table(run)}
    assert list(told)[4:] == [*STAGES, "evaluate"]
    assert told["distill"] == (
        "3,210 right answers kept; original: 62 % right; reasoned: 55 % right; original: 8.4 tokens an answer; "
        "reasoned: 31.7 tokens an answer"
    )
    assert told["review"] == "3 waiting; 50 accepted; 7 edited; 4 rejected; 87 % agreement of readers"
    assert told["specialise"] == "right math 0.6; right code 0.3"
    assert told["reward"] == "81 % of held-out pairs put in the right order"
    assert "aligned (RL): 32 % of unseen problems (27 % to 39 %)" in told["evaluate"]
    assert "wishes: 92 % of harmful ones refused and 82 % of harmless ones answered" in told["evaluate"]
    assert "math expert: 70 %" in told["evaluate"]


def test_figures_by_name_may_be_nested_or_dotted() -> None:
    assert by_name({"a": {"x": 1, "text": "no"}, "a.y": 2, "ab": 3}, "a") == {"x": 1.0, "y": 2.0}
    assert by_name({"a": 5}, "a") == {}


def test_points_and_shifts() -> None:
    assert [points(x) for x in (0.124, -0.2, 0.001, -0.001)] == ["+12", "−20", "0", "0"]
    small = {"share": 0.5, "interval": [0.3, 0.7]}
    assert shift(small, {"share": 0.6, "interval": [0.4, 0.8]}, "share").sure is False  # type: ignore[union-attr]
    assert shift(small, {"share": 0.95, "interval": [0.9, 0.99]}, "share").sure is True  # type: ignore[union-attr]
    assert shift(small, {}, "share") is None
