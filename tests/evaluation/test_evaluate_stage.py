"""The stage evaluate: every model is measured once, a restart takes over what is finished, the log holds
every sample."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_language_model import ByteTokenizer

from sapience.corpus.documents import Document, write_documents
from sapience.corpus.shards import write_shard
from sapience.evaluation import stage
from sapience.evaluation.bits_per_byte import bits_per_byte, xz_bits_per_byte
from sapience.evaluation.held_out import held_out_sample
from sapience.model.huggingface import load_model, save_model
from sapience.model.transformer import Transformer
from sapience.recipe import Recipe, UserError
from sapience.recipe.evaluate import EvaluateSection
from sapience.recipe.model import ModelSection
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
)


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
    monkeypatch.setattr(stage.Tokenizer, "load", staticmethod(lambda path: ByteTokenizer()))
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
    names = [name for name in ("corpus", "tokenizer", "pretrain", "extend") if name not in without.split()]
    progress = Progress()
    inputs = {name: run / name for name in names}
    return StageContext(Recipe(evaluate=section), run, run / "evaluate", inputs, progress), progress


def records(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluate" / f"samples-{name}.jsonl").read_text().splitlines()]


def test_figures_are_those_of_the_measurements(run: Path) -> None:
    given, progress = context(run)
    figures = stage.run_evaluate(given)
    json.dumps(figures)
    texts = [document.text for document in held_out_sample(run / "corpus", "de", 2048)]
    base = load_model(run / "pretrain" / "model")
    assert figures["bits_per_byte"]["base"]["de"] == bits_per_byte(base, ByteTokenizer(), texts, 96)
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
    assert {**{key: results[key] for key in figures if key != "problems"}, "problems": 6} == figures


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
    assert set(figures) == {"accuracy", "interval", "families", "problems"}
    assert list(figures["accuracy"]) == ["mine"]


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
    with pytest.raises(UserError, match="use auto or cpu"):
        stage.run_evaluate(context(run, SECTION.model_copy(update={"device": "cuda"}))[0])
