"""From a problem file to the report: an expert raised on it is measured on its test part, of which it has seen nothing."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet_progress import quiet
from tiny_models import tiny_config

from sapience.corpus.tokenizer import train_tokenizer
from sapience.evaluation.scoring import wilson_interval
from sapience.journey import travel
from sapience.model.huggingface import save_model
from sapience.model.transformer import Transformer
from sapience.posttraining import specialise
from sapience.posttraining.rollouts import Prompt
from sapience.problems.problem import Split, content_hash, split_of
from sapience.recipe import Recipe
from sapience.run import read_manifest

NAMES = "Ada Ben Cleo Dan Eva Finn Gia Hugo Ida Jan Kim Leo".split()
QUESTIONS = [f"{name} has {n} pens. How many is {n} less {n - 7}?" for name in NAMES for n in range(10, 20)]
"""All have the answer 7, so that a model of a few thousand weights can learn to solve them."""
OTHERS = [f"{name} sees {n} birds. How many are there?" for name in NAMES[:2] for n in (30, 31)]


def lines(path: Path, records: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def part(split: Split) -> set[str]:
    return {question for question in QUESTIONS if split_of(question) == split}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model that has learned nothing yet."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(QUESTIONS, 320, 1)
    config = tiny_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=256, num_hidden_layers=2)
    special = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    save_model(Transformer(config).initialize(1), tmp_path / "base", *special)
    tokenizer.save(tmp_path / "base")
    return tmp_path / "base"


def tree(base: Path, folder: Path) -> dict[str, Any]:
    steps = "7 are left.\n#### 7"
    pens = lines(folder / "pens.jsonl", [{"question": text, "answer": steps} for text in QUESTIONS])
    birds = lines(folder / "birds.jsonl", [{"question": text, "answer": "#### 8"} for text in OTHERS])
    greetings = lines(folder / "greetings.jsonl", [{"prompt": f"Hello {name}", "answer": "Hello!"} for name in NAMES])
    supervised = {"epochs": 6, "length": 200, "batch": {"rows": 2, "micro_rows": 2}, "peak": 0.01, "device": "cpu"}
    return {
        "name": "tiny",
        "stages": ["specialise", "finetune", "evaluate", "report"],
        "specialise": {
            "model": str(base),
            "experts": {"math": {"problems": {"files": [{"path": pens}]}}},
            "supervised": supervised,
            "policy": {
                "iterations": 2, "prompts": 2, "samples": 2, "answer_tokens": 12, "peak": 1e-5, "device": "cpu",
                "validations": 1, "validation_problems": 50,
            },
        },
        "finetune": {
            "model": str(base), "samples": [greetings],
            "supervised": supervised | {"epochs": 1},
        },
        "evaluate": {
            "families": ["maxn"], "problems_per_family": 30, "behaviour": False, "repeats": 0, "side_by_side": [],
            "chat_answer_tokens": 24, "window": 200, "device": "cpu",
            "problem_files": [{"path": birds, "use": "test"}],
        },
    }  # fmt: skip


def test_an_expert_is_measured_on_the_test_part_of_its_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[str] = []
    usual = specialise.validation

    def validation(model: Any, chat: Any, prompts: Sequence[Prompt], *rest: Any) -> Callable[[int], None]:
        validated.extend(prompt.messages[-1].content for prompt in prompts)
        return usual(model, chat, prompts, *rest)

    monkeypatch.setattr(specialise, "validation", validation)
    run = tmp_path / "run"
    travel(Recipe.model_validate(tree(base, tmp_path)), run, quiet, print)

    shown = {r["messages"][-2]["content"] for r in read(run / "specialise" / "demonstrations-math.jsonl")}
    drawn = {r["messages"][-1]["content"] for r in read(run / "specialise" / "math" / "rollouts.jsonl")}
    assert shown == part("train") and drawn <= shown
    assert set(validated) == part("validation") and len(validated) == len(set(validated))
    assert {r["problems"] for r in read(run / "specialise" / "math" / "validations.jsonl")} == {len(validated)}

    made = read_manifest(run / "evaluate")
    assert made is not None
    samples = [r for r in read(run / "evaluate" / "samples-expert-math.jsonl") if r["kind"] == "problem"]
    asked = {family: {r["identity"] for r in samples if r["family"] == family} for family in ("pens", "birds")}
    assert asked["pens"] == {content_hash(text)[:16] for text in part("test")}
    assert asked["birds"] == {content_hash(text)[:16] for text in OTHERS}
    assert len(samples) == sum(map(len, asked.values())), "a generated family it was not raised on is not asked"
    results = json.loads((run / "evaluate" / "results.json").read_text())
    found = results["expert_families"]["math"]
    assert made.figures["expert_families"]["math"] == found
    right, problems = sum(r["correct"] for r in samples if r["family"] == "pens"), len(part("test"))
    assert right >= 0.8 * problems
    assert found["pens"] == {
        "accuracy": right / problems, "interval": list(wilson_interval(right, problems)), "problems": problems,
    }  # fmt: skip
    assert found["birds"]["accuracy"] == 0 and found["birds"]["problems"] == len(OTHERS)
    assert results["expert_accuracy"]["math"] == right / len(samples)
    assert list(results["families"]["finetune"]) == ["maxn", "birds", "pens"]
    assert results["domain_accuracy"]["finetune"]["math"] < results["expert_accuracy"]["math"]

    page = " ".join((run / "report" / "report.html").read_text().replace("\u00a0", " ").split())
    rate, (low, high) = round(100 * right / problems), (f"{100 * bound:.0f}" for bound in found["pens"]["interval"])
    row = page[page.index("math: pens") :].split("</tr>")[0]
    assert f"{rate} % ({low}\N{EN DASH}{high})" in row and f">{problems}<" in row
    assert "math: birds" in page
