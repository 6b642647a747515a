"""The benchmarks that train on text: prepare, train for steps, score, compare; on a handful of documents."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = [
    "tokenizer.vocab_size=320", "model.vocab_size=320",
    "model.hidden_size=32", "model.intermediate_size=48", "model.moe_intermediate_size=16",
    "model.num_hidden_layers=2", "model.n_routed_experts=4", "pretrain.length=32", "pretrain.batch.rows=2",
    "pretrain.batch.micro_rows=2", "pretrain.compiled=false", "pretrain.device=cpu",
]  # fmt: skip


def ran(script: str, *args: str | Path) -> dict[str, Any]:
    """The JSON line that it prints last."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *args], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = "the quick brown fox jumps over a lazy dog and sings about numbers".split()
    documents = [
        {"text": " ".join(words[(7 * i + j * j) % len(words)] for j in range(60)) + ".", "lang": "en", "kind": kind}
        for i in range(120)
        for kind in [("text", "code", "math")[i % 3]]
    ]
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    (folder / "corpus.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    made = ran("time_to_quality.py", "prepare", folder / "corpus.jsonl.zst", folder / "made", "--vocabulary", "320")
    assert made["documents"] + made["held_out"] == 120 and made["held_out"] == 3
    return folder / "made"


@pytest.mark.parametrize("dense", [False, True])
def test_a_model_is_trained_for_its_steps_and_scored(folder: Path, dense: bool) -> None:
    recipe = BENCHMARKS.parent / "recipes" / "gpu-mini.yaml"
    options = ["--dense"] if dense else []
    record = ran("time_to_quality.py", "train", folder, recipe, "--steps", "5", *options, "--set", *TINY)
    assert record["steps"] == 5 and record["dense"] == dense
    bits = record["bits_per_byte"]
    assert {"all", "text_en", "code", "math"} == set(bits) and all(0 < value < 16 for value in bits.values())
    assert min(bits.values()) < bits["all"] < max(bits.values())


def test_seconds_become_as_many_steps_as_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import time_to_quality

    class Clock(time_to_quality.Trial):
        def __init__(self) -> None:
            pass

        def training(self, steps: int, scratch: Path) -> int:  # type: ignore[override]
            return steps

        def timed(self, steps: int) -> float:  # type: ignore[override]
            return 0.5 + 0.02 * steps

    assert Clock().steps_within(60.5, tmp_path) == 3000
    assert Clock().steps_within(0.1, tmp_path) == 1


def test_the_score_counts_every_byte_once(folder: Path) -> None:
    """Against a sum over single tokens, by a model that gives every token the same probability."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import time_to_quality
    finally:
        sys.path.pop(0)
    import torch

    from sapience.corpus.tokenizer import Tokenizer
    from sapience.model.transformer import Transformer
    from sapience.recipe.model import ModelSection

    tokenizer = Tokenizer.load(folder)
    model = Transformer(ModelSection(vocab_size=320, hidden_size=32)).initialize(0)
    torch.nn.init.zeros_(model.head.weight)
    texts = ["one two three", "vier fünf sechs " * 300]
    found = time_to_quality.score(model, tokenizer, [{"group": "code", "text": text} for text in texts])
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert tokens > time_to_quality.WINDOW
    assert found["all"] == pytest.approx(tokens * math.log2(320) / sum(len(t.encode()) for t in texts), rel=1e-4)


def test_precisions_are_compared(folder: Path, tmp_path: Path) -> None:
    recipe = BENCHMARKS.parent / "recipes" / "gpu-mini.yaml"
    for name, more in {"one": [], "same": [], "other": ["seed=1"]}.items():
        ran("precision.py", "train", folder, recipe, tmp_path / f"{name}.json", "--steps", "4", "--set", *TINY, *more)
    record = ran("precision.py", "compare", *(tmp_path / f"{name}.json" for name in ("one", "same", "other")))
    differences = record["relative_difference"]
    assert differences["one"] == differences["same"] == 0 and differences["other"] != 0


def test_a_training_that_is_ended_early_leaves_what_it_has_made(folder: Path, tmp_path: Path) -> None:
    recipe = BENCHMARKS.parent / "recipes" / "gpu-mini.yaml"
    out, scratch = tmp_path / "early.json", tmp_path / "scratch"
    scratch.mkdir()
    options = ["--steps", "100000", "--score", "--set", *TINY]
    command = [sys.executable, str(BENCHMARKS / "precision.py"), "train", str(folder), str(recipe), str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(scratch)})
    end = time.monotonic() + 120
    while not any(len(log.read_text().splitlines()) > 3 for log in scratch.glob("*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 0
    record = json.loads(out.read_text())
    assert 3 < len(record["losses"]) < 100000 == record["steps"]
    bits = record["bits_per_byte"]
    assert set(bits) == {"bf16", "fp8"} and all(0 < value < 20 for value in bits.values())
    assert bits["fp8"] == pytest.approx(bits["bf16"], rel=0.02) and bits["fp8"] != bits["bf16"]
    compared = ran("precision.py", "compare", out)
    assert compared["steps"] == len(record["losses"]) and compared["bits_per_byte"] == {"early": bits}


def test_a_trunk_goes_on_to_the_end_it_would_have_had(folder: Path, tmp_path: Path) -> None:
    recipe = BENCHMARKS.parent / "recipes" / "gpu-mini.yaml"

    def train(name: str, *options: object) -> list[float]:
        out = tmp_path / f"{name}.json"
        ran("precision.py", "train", folder, recipe, out, "--steps", "4", *options, "--set", *TINY)
        losses: list[float] = json.loads(out.read_text())["losses"]
        return losses

    whole = train("whole")
    assert train("trunk", "--trunk", "2", tmp_path / "moment") == whole[:2]
    assert train("branch", "--from", tmp_path / "moment") == whole[2:]
