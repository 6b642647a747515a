"""The measurements beside other systems run, and agree where they must."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tiny_models import tiny_config, tiny_model

from sapience.corpus.tokenizer import train_tokenizer
from sapience.model.huggingface import save_model

ROOT = Path(__file__).resolve().parent.parent
WORDS = "a river bends around the old mill where seven herons wait 12 34".split()


def some_text(seed: int, words: int = 400) -> str:
    rng = Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + ".\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with random weights, extended by YaRN, and its tokenizer."""
    tokenizer = train_tokenizer([some_text(0, 3000)], 300, 3)
    scaling = {"factor": 4.0, "original_max_position_embeddings": 64}
    save_model(
        tiny_model(tiny_config(vocab_size=300, max_position_embeddings=512, rope_scaling=scaling)),
        tmp_path / "m",
        0,
        1,
        2,
    )
    tokenizer.save(tmp_path / "m")
    return tmp_path / "m"


def figures(script: str, *arguments: object) -> list[dict[str, Any]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_bits_per_byte_of_an_export_are_the_same_in_transformers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for seed, path in enumerate(texts, start=1):
        path.write_text(some_text(seed))
    records = figures("transformers_bits.py", folder, "--length", 96, "--text", *texts)
    assert [record["domain"] for record in records] == ["one", "two"]
    for record in records:
        assert record["sapience"] > 1 and record["difference"] < 1e-5 * record["sapience"]


@pytest.mark.slow
def test_lm_eval_runs_two_standard_tasks_from_local_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra: pip install -e '.[harness]' -c constraints.txt")
    for name in ("train", "test"):
        lines = [
            json.dumps({"question": f"{name}: {some_text(n, 8)} How many?", "answer": f"It is {n}.\n#### {n}"})
            for n in range(8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "wiki.txt").write_text("".join(f" = Heron {n} = \n\n {some_text(n, 60)}" for n in range(5)))
    records = figures(
        "harness_local.py", folder, "--gsm8k", tmp_path / "train.jsonl", tmp_path / "test.jsonl",
        "--wikitext", tmp_path / "wiki.txt", "--limit", 4, "--length", 512,
    )  # fmt: skip
    found = {(record["task"], record["metric"].split(",")[0]): record for record in records}
    assert 0 <= found["gsm8k_local", "exact_match"]["value"] <= 1
    assert found["wikitext_local", "bits_per_byte"]["value"] > 1
    assert {record["documents"] for record in records} == {4}
