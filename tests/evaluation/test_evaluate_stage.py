"""The stage evaluate: every model is measured once and asked as its kind is, a restart takes over what is finished, the
log holds every sample."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_in_rules import NoSandbox, install_rules
from tiny_language_model import ByteTokenizer

from sapience.corpus.documents import Document, write_documents
from sapience.corpus.shards import write_shard
from sapience.evaluation import measurement, stage
from sapience.evaluation.bits_per_byte import bits_per_byte, xz_bits_per_byte
from sapience.evaluation.held_out import held_out_sample
from sapience.evaluation.measured_models import MeasuredModel, measured_models
from sapience.model.huggingface import load_model, save_model
from sapience.model.transformer import Transformer
from sapience.problems.families import generate as generate_problems
from sapience.problems.problem import Domain, Problem
from sapience.recipe import Recipe, UserError
from sapience.recipe.evaluate import EvaluateSection, SidePrompt
from sapience.recipe.model import ModelSection
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.specialise import ExpertSection, SpecialiseSection
from sapience.run import ProgressTask, StageContext

SECTION = EvaluateSection(
    bits_per_byte_kilobytes=2,
    mtp_kilobytes=1,
    window=96,
    needle_samples={2: 1, 4: 1},
    needle_depths=(0.0, 1.0),
    families=("maxn", "copy"),
    problems_per_family=3,
    shots=1,
    answer_tokens=4,
    chat_answer_tokens=5,
    chat_kilobytes=1,
    repeat_problems=1,
    repeats=2,
    side_by_side=(SidePrompt(name="sum", family="maxn"), SidePrompt(name="hello", turns=("Hello",))),
)
CHAT = ("finetune", "reinforce", "specialise/math", "specialise/code")


class Counter:
    """Counts the work that is reported."""

    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        self.done += amount


class Progress:
    """Remembers what was begun and how much of it was done."""

    def __init__(self) -> None:
        self.bars: dict[str, tuple[int | None, Counter]] = {}

    @contextmanager
    def __call__(self, title: str, total: int | None) -> Iterator[ProgressTask]:
        self.bars[title] = (total, Counter())
        yield self.bars[title][1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a corpus of two domains, training tokens and two models, all in bytes."""
    torch.set_num_threads(1)
    install_rules(monkeypatch)
    monkeypatch.setattr(measurement.Tokenizer, "load", staticmethod(lambda path: ByteTokenizer()))
    for folder in ("corpus/heldout", "tokenizer/tokens", "evaluate"):
        (tmp_path / folder).mkdir(parents=True)
    for domain in ("de", "zh"):
        documents = [
            Document(f"{domain}: Satz {number}. Und noch einer.\n" * 5, domain, domain, "text", "test", "CC0-1.0")
            for number in range(12)
        ]
        write_documents(tmp_path / "corpus" / "heldout" / f"{domain}.jsonl.zst", documents)
        tokens = [np.array([256, *d.text.encode(), 257], dtype=np.uint16) for d in documents]
        write_shard(tmp_path / "tokenizer" / "tokens" / domain, tokens, 259)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    for seed, name in enumerate(("pretrain", "extend")):
        config = ModelSection(vocab_size=259, hidden_size=32, num_hidden_layers=2, max_position_embeddings=512)
        save_model(Transformer(config).initialize(seed), tmp_path / name / "model", 256, 257, 258)
    return tmp_path


def context(run: Path, section: EvaluateSection = SECTION, without: str = "") -> tuple[StageContext, Progress]:
    stages = ("corpus", "tokenizer", "pretrain", "extend", "specialise", "finetune", "reinforce")
    names = [name for name in stages if (run / name).is_dir() and name not in without.split()]
    progress = Progress()
    inputs = {name: run / name for name in names}
    return StageContext(Recipe(evaluate=section), run, run / "evaluate", inputs, progress), progress


@pytest.fixture
def chat_run(run: Path) -> Path:
    """The run with two experts, a fine-tuned and a reinforced model, and behaviours reduced to a few wishes."""
    for seed, name in enumerate(CHAT, start=2):
        config = ModelSection(vocab_size=259, hidden_size=32, num_hidden_layers=2, max_position_embeddings=512)
        save_model(Transformer(config).initialize(seed), run / name / "model", 256, 257, 258)
        (run / name / "model" / "tokenizer_config.json").write_text('{"chat_template": "yes"}')
    return run


def records(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluate" / f"samples-{name}.jsonl").read_text().splitlines()]


def test_figures_are_those_of_the_measurements(run: Path) -> None:
    given, progress = context(run)
    figures = stage.run_evaluate(given)
    json.dumps(figures)
    texts = [document.text for document in held_out_sample(run / "corpus", "de", 2048)]
    base = load_model(run / "pretrain" / "model")
    expected = bits_per_byte(base, ByteTokenizer(), texts, 96)
    assert figures["bits_per_byte"]["base"]["de"] == pytest.approx(expected, rel=1e-6)
    assert figures["xz_bits_per_byte"]["de"] == xz_bits_per_byte(texts)
    assert figures["bits_per_byte"]["base"] != figures["bits_per_byte"]["extended"]
    assert figures["problems"] == 6
    assert set(figures["mtp"]["base"]["domains"]) == {"de", "zh"}
    assert figures["mtp"]["base"]["overall"]["bigram_accepted_true"] >= 0
    for name in ("base", "extended"):
        low, high = figures["interval"][name]
        assert low <= figures["accuracy"][name] <= high
        assert list(figures["needles"][name]) == ["192", "384"]
        kinds = [record["kind"] for record in records(run, name)]
        assert (kinds.count("needle"), kinds.count("problem")) == (4, 6)
        total, bar = progress.bars[f"measuring {name}"]
        assert bar.done == total
    results = json.loads((run / "evaluate" / "results.json").read_text())
    assert len(results["needle_cells"]["base"]) == 4
    assert {key: results[key] for key in figures} == figures
    assert figures["judge"] == "nothing was executed"  # no family of code was asked


def test_a_restart_takes_over_finished_models_and_ends_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = stage.run_evaluate(context(run)[0])
    (run / "evaluate" / "part-extended.json").unlink()
    (run / "evaluate" / "results.json").unlink()
    given, progress = context(run)
    assert stage.run_evaluate(given) == undisturbed
    assert list(progress.bars) == ["measuring extended"]
    given, progress = context(run, SECTION.model_copy(update={"problems_per_family": 2}))
    assert stage.run_evaluate(given)["problems"] == 4
    assert list(progress.bars) == ["measuring base", "measuring extended"]


def test_a_users_model_without_a_corpus_is_tried_on_problems(run: Path) -> None:
    (run / "extend" / "model" / "tokenizer.json").write_text("{}")
    section = SECTION.model_copy(update={"models": {"mine": str(run / "extend" / "model")}})
    figures = stage.run_evaluate(context(run, section, without="corpus tokenizer pretrain extend")[0])
    assert set(figures) == {"accuracy", "interval", "families", "answers", "problems", "judge"}
    assert list(figures["accuracy"]) == ["mine"]


def test_every_kind_of_model_is_asked_in_its_own_way(chat_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = stage.behaviour_prompts()[:7]
    monkeypatch.setattr(stage, "behaviour_prompts", lambda: wishes)
    section = SECTION.model_copy(update={"families": ("maxn", "copy", "codefn")})
    given, progress = context(chat_run, section)
    figures = stage.run_evaluate(given)
    json.dumps(figures)
    assert list(figures["accuracy"]) == ["base", "extended", "finetune", "reinforce"]
    assert list(figures["paired"]) == ["extended_base", "finetune_extended", "reinforce_finetune"]
    assert set(figures["expert_accuracy"]) == {"math", "code"}
    assert set(figures["domain_accuracy"]["finetune"]) == {"math", "code"}
    assert figures["problems"] == 9
    assert figures["judge"] == "stand-in for a sandbox"
    assert "left_out" not in figures
    assert list(figures["behaviour"]) == ["finetune", "reinforce"]
    last = figures["behaviour"]["reinforce"]
    assert figures["refusal"]["harmful"] == last["refused"]["share"]
    assert figures["format_rate"] == figures["answers"]["reinforce"]["format_rate"]
    assert 0 <= figures["answers"]["finetune"]["consistency"] <= 1
    assert "consistency" not in figures["answers"]["base"]
    assert list(figures["bits_per_byte"]) == ["base", "extended"]
    assert list(figures["bits_per_byte_beginning"]) == ["base", "extended", "finetune", "reinforce"]
    assert list(figures["needles"]) == list(figures["mtp"]) == ["base", "extended"]
    for name, domain in (("expert-math", "math"), ("expert-code", "code")):
        asked = [r for r in records(chat_run, name) if r["kind"] == "problem"]
        assert {r["family"] for r in asked} == {"maxn" if domain == "math" else "codefn"}
        assert {r["kind"] for r in records(chat_run, name)} == {"problem"}
    assert [r["prompt"] for r in records(chat_run, "reinforce") if r["kind"] == "wish"] == [w.prompt for w in wishes]
    questions = {r["identity"]: r["prompt"] for r in records(chat_run, "finetune") if r["kind"] == "problem"}
    few_shot = {r["identity"]: r["prompt"] for r in records(chat_run, "extended") if r["kind"] == "problem"}
    assert list(questions) == list(few_shot)
    assert all(f"Problem: {question}\nAnswer:" in few_shot[name] for name, question in questions.items())
    for total, bar in progress.bars.values():
        assert bar.done == total
    side = json.loads((chat_run / "evaluate" / "side_by_side.json").read_text())
    assert [prompt["name"] for prompt in side["prompts"]] == ["sum", "hello"]
    assert set(side["answers"]) == {*figures["accuracy"], "expert-math", "expert-code"}
    asked = {name: [answer is not None for answer in said] for name, said in side["answers"].items()}
    assert asked == {key: [True, True] for key in figures["accuracy"]} | {
        "expert-math": [True, False], "expert-code": [False, False],
    }  # fmt: skip
    (chat_run / "evaluate" / "part-reinforce.json").unlink()
    given, progress = context(chat_run, section)
    assert stage.run_evaluate(given) == figures
    assert list(progress.bars) == ["measuring reinforce"]


def test_an_expert_is_asked_the_families_it_was_raised_on(tmp_path: Path) -> None:
    section = SpecialiseSection(experts={"order": ExpertSection(problems=ProblemSetSection(families={"copy": 1}))})
    for name in ("order", "code"):
        (tmp_path / "specialise" / name / "model").mkdir(parents=True)
        (tmp_path / "specialise" / name / "model" / "config.json").write_text("{}")
    inputs = {"specialise": tmp_path / "specialise"}
    given = StageContext(Recipe(specialise=section), tmp_path, tmp_path, inputs, Progress())
    code, order = measured_models(given)
    problems = [p for family in ("maxn", "copy", "codefn") for p in generate_problems(family, "test", 2, 0)]
    assert [p.family for p in order.own(problems)] == ["copy"] * 2
    assert [p.family for p in code.own(problems)] == ["codefn"] * 2  # unknown to the recipe: its domain
    assert MeasuredModel("finetune", tmp_path, "assistant").own(problems) == problems


def test_an_expert_is_asked_its_own_files_and_others_of_its_domain(tmp_path: Path) -> None:
    domains: dict[str, Domain] = {"maxn": "math", "mine": "general", "gsm8k": "math", "theirs": "math", "mbpp": "code"}
    problems = [Problem(family, domain, f"{family}?", "1", "1") for family, domain in domains.items()]
    expert = MeasuredModel("expert-math", tmp_path, "expert", ("mine",), ("gsm8k", "mbpp"))
    assert [p.family for p in expert.own(problems)] == ["mine", "gsm8k"]
    assert not replace(expert, families=(), sets=()).own(problems), "known, but nothing of its own is asked"
    assert [p.family for p in replace(expert, families=None).own(problems)] == ["maxn", "gsm8k", "theirs"]


def test_before_and_after_post_training_the_same_bytes_are_read(chat_run: Path) -> None:
    figures = stage.run_evaluate(context(chat_run, SECTION.model_copy(update={"behaviour": False}))[0])
    texts = [document.text for document in held_out_sample(chat_run / "corpus", "zh", 2048)]
    size, beginning = 0, []
    for text in texts:
        if size < 1024:
            beginning.append(text)
            size += len(text.encode())
    assert 0 < len(beginning) < len(texts)
    for name, folder in (("base", "pretrain"), ("finetune", "finetune")):
        expected = bits_per_byte(load_model(chat_run / folder / "model"), ByteTokenizer(), beginning, 96)
        assert figures["bits_per_byte_beginning"][name]["zh"] == pytest.approx(expected, rel=1e-6)
    assert "behaviour" not in figures
    assert "refusal" not in figures
    deep = SECTION.model_copy(update={"behaviour": False, "chat_needles": True})
    assert list(stage.run_evaluate(context(chat_run, deep)[0])["needles"]) == list(figures["accuracy"])


def test_code_that_nobody_can_run_is_left_out_and_said(chat_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SECTION.model_copy(update={"families": ("maxn", "codefn"), "behaviour": False})
    executed = stage.run_evaluate(context(chat_run, section)[0])
    install_rules(monkeypatch, NoSandbox)
    given, progress = context(chat_run, section)
    figures = stage.run_evaluate(given)
    assert "cannot be contained" in figures["left_out"]["why"]
    assert figures["left_out"]["families"] == ["codefn"]
    assert figures["problems"] == 3
    assert executed["problems"] == 6
    assert list(figures["families"]["finetune"]) == ["maxn"]
    assert "code" not in figures["expert_accuracy"]
    assert len(progress.bars) == 6  # nothing of the evaluation with a sandbox is taken over


def test_a_users_model_is_an_assistant_where_it_has_a_chat_template(chat_run: Path) -> None:
    for name in ("extend", "finetune"):
        (chat_run / name / "model" / "tokenizer.json").write_text("{}")
    named = {"plain": str(chat_run / "extend" / "model"), "chat": str(chat_run / "finetune" / "model")}
    section = SECTION.model_copy(update={"models": named, "behaviour": False})
    figures = stage.run_evaluate(context(chat_run, section)[0])
    assert "format_rate" not in figures["answers"]["plain"]
    assert "format_rate" in figures["answers"]["chat"]
    assert list(figures["paired"]) == ["chat_plain"]
    section = section.model_copy(update={"chat_models": ("plain",)})
    figures = stage.run_evaluate(context(chat_run, section)[0])
    assert "format_rate" in figures["answers"]["plain"]
    assert "format_rate" not in figures["answers"]["chat"]


def test_bigrams_of_another_vocabulary_are_not_compared(run: Path) -> None:
    (run / "pretrain" / "model" / "tokenizer.json").write_text('{"another": 1}')
    figures = stage.run_evaluate(context(run, without="extend")[0])
    assert "bigram_accepted" not in figures["mtp"]["base"]["overall"]


def test_what_cannot_be_measured_is_said(run: Path) -> None:
    with pytest.raises(UserError, match="run pretrain or extend first"):
        stage.run_evaluate(context(run, without="pretrain extend")[0])
    with pytest.raises(UserError, match=r"put the model's tokenizer\.json there"):
        stage.run_evaluate(context(run, without="corpus tokenizer")[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said where there is no GPU")
def test_a_gpu_that_is_not_there_is_said(run: Path) -> None:
    with pytest.raises(UserError, match="set device=auto or cpu"):
        stage.run_evaluate(context(run, SECTION.model_copy(update={"device": "cuda"}))[0])
