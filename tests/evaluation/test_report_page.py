"""The report: shows the figures, asks nothing of the network, lets no data become markup, copes with what is
absent."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import DOMAINS, HOSTILE, manifest, write_synthetic_run

from sapience.evaluation.journey_table import journey_table
from sapience.evaluation.plain_words import plain_words
from sapience.evaluation.report import page_sections, run_report
from sapience.evaluation.run_record import read_lines, read_run
from sapience.recipe import Recipe
from sapience.run import ProgressTask, StageContext

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class Silent:
    def advance(self, amount: float = 1, **figures: float | str) -> None:
        pass


@contextmanager
def progress(title: str, total: int | None) -> Iterator[ProgressTask]:
    yield Silent()


def report_of(run: Path) -> str:
    (run / "report").mkdir(parents=True)
    recipe = Recipe(name="synthetic")
    figures = run_report(StageContext(recipe, run, run / "report", {}, progress))
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert figures["bytes"] == len(page.encode())
    return page


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_shows_the_figures_of_every_stage(tmp_path: Path) -> None:
    text = " ".join(read(report_of(write_synthetic_run(tmp_path / "run"))).text.replace("\u00a0", " ").split())
    for domain, (model, xz) in DOMAINS.items():
        assert f"{domain} ({model:.2f} bits per byte against {xz:.2f})" in text
        assert f"{model:.3f}" in text and f"{xz:.3f}" in text
    for expected in (
        "9 min 58 s",  # all stages
        "the base model found 12 %; after the context was extended, 96 %",
        "the base model solves 22 % (95 % interval 18 % to 27 %)",
        "in 51 % of all places it names what the model then says itself",
        "in 33 % also what the text really says",
        "the most frequent successor in the training text does so in 19 %",
        "the busiest one had 3 % more than its even share",
        "postgresql-doc-15 was not to be had",
        "MPL-2.0",
        "1,024 tokens in the vocabulary",
        "after 600 steps",
    ):
        assert expected in text, expected


def test_asks_nothing_of_the_network_and_runs_no_script(tmp_path: Path) -> None:
    page = report_of(write_synthetic_run(tmp_path / "run"))
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "srcset", "action", "data", "xlink:href"}:
            assert re.fullmatch(r"#[a-z]+", value), (name, value)
        assert "url(" not in value
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not any("url(" in style or "@import" in style for style in styles)


def test_texts_from_data_stay_texts(tmp_path: Path) -> None:
    page = report_of(write_synthetic_run(tmp_path / "run"))
    assert HOSTILE in read(page).text
    assert "<script" not in page and "<b>" not in page


def test_an_empty_run_and_a_run_from_a_users_model_have_a_page(tmp_path: Path) -> None:
    assert "No stage of this run is finished yet" in read(report_of(tmp_path / "empty")).text
    run = tmp_path / "own"
    (run / "extend").mkdir(parents=True)
    (run / "polish").mkdir()
    (run / "extend" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "los')
    manifest(run / "extend", 60.0, {"needle_before": 0.1, "needle_after": 0.9})
    manifest(run / "polish", 5.0, {"shine": 0.75, "nested": {"a": 1}})
    text = read(report_of(run)).text
    assert "polish" in text and "shine 0.75" in text and "1 min 00 s" in text


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "pretrain", "extend", "evaluate"])
def test_any_one_stage_may_be_absent_or_alone(stage: str, tmp_path: Path) -> None:
    full = write_synthetic_run(tmp_path / "run")
    (full / stage).rename(tmp_path / stage)
    read(report_of(full))
    (tmp_path / "alone").mkdir()
    (tmp_path / stage).rename(tmp_path / "alone" / stage)
    read(report_of(tmp_path / "alone"))


def test_every_section_explains_itself(tmp_path: Path) -> None:
    sections = page_sections(read_run(write_synthetic_run(tmp_path / "run")), Recipe())
    assert [section.anchor for section in sections] == [
        "words", "journey", "corpus", "learning", "samples", "compression", "experts", "drafts", "needles",
        "families",
    ]  # fmt: skip
    assert all(len(section.lead) > 40 for section in sections)


def test_journey_table_tells_what_each_stage_changed(tmp_path: Path) -> None:
    rows = journey_table(write_synthetic_run(tmp_path / "run"))
    assert [row.stage for row in rows] == ["corpus", "tokenizer", "pretrain", "extend", "evaluate"]
    told = {row.stage: row.figures.replace("\u00a0", " ") for row in rows}
    assert "bits per byte under lzma in 3 of 5 domains" in told["pretrain"]
    assert told["extend"] == "needles found: 12 % before, 96 % after"
    assert "extended: needles 95 % at 128, 90 % at 1024 and 50 % at 4096 tokens" in told["evaluate"]
    assert rows[2].took == "5 min 51 s"


def test_the_journey_table_tells_models_apart_by_their_whole_names(tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run")
    names = ("my_base", "fine_tuned_1", "last")
    changes = {"fine_tuned_1_my_base": [0.1, 0.05, 0.15], "last_fine_tuned_1": [-0.2, -0.3, -0.1]}
    manifest(run / "evaluate", 1.0, {"accuracy": dict.fromkeys(names, 0.5), "paired": changes})
    [told] = [row.figures for row in journey_table(run) if row.stage == "evaluate"]
    assert "fine_tuned_1 against my_base: +10 points (+5 to +15)" in told
    assert "last against fine_tuned_1: −20 points (−30 to −10)" in told


def test_the_needles_are_told_with_the_length_they_were_measured_at(tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run")
    assert any("in a text longer than what it was trained on" in words for words in plain_words(read_run(run)))
    manifest(run / "extend", 1.0, {"needle_factor": 4, "needle_before": 0.1, "needle_after": 0.9})
    assert any("in a text of 4 times the length it was trained on" in words for words in plain_words(read_run(run)))


@pytest.mark.parametrize("loss", [710.0, 1e300])
def test_a_loss_beyond_all_numbers_of_tokens_is_told_as_it_is(loss: float, tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    lines = (json.dumps({"step": step, "tokens": 9, "loss": value}) for step, value in enumerate((7.0, loss)))
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("\n".join(lines))
    [words] = plain_words(read_run(tmp_path))
    assert words.startswith("The model read 9 tokens; its loss went from 7.00 to ")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_line_feed_ends_a_line(separator: str, tmp_path: Path) -> None:
    records = [{"text": f"one{separator}two", "step": step} for step in range(2)]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    assert read_lines(path) == records


def test_lines_cut_short_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n[1]\n\n" + '{"step": 2')
    assert read_lines(path) == [{"step": 1}]
    assert read_lines(tmp_path / "none.jsonl") == []
