"""The timing of drawing: what it reports, the protocol in which systems take turns, and the peer beside it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import SIZES, tiny_config, tiny_model

from sapience.cli import main
from sapience.inference.bench import AskedDrawing, DrawingBench, bytes_of_a_step, drawn_prompts
from sapience.inference.native_library import native_library
from sapience.model.huggingface import save_model
from sapience.recipe.model import ModelSection
from sapience.training.bench import serve

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"hf": SIZES | {"num_nextn_predict_layers": 0}, "seq": 16, "batch": 2}))
    return path


def test_what_is_drawn_is_counted(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", str(tiny), "--batch", "3", "--prompt", "5", "--new", "7", "--rounds", "2", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "generate", *options])
    record = json.loads(capsys.readouterr().out)
    assert record["config"] == "tiny batch 3 prompt 5 new 7 greedy fp32 cpu" and record["decoder"] in ("c++", "pytorch")
    assert len(record["rounds_ms"]) == 2
    middle = sum(record["rounds_ms"]) / 2
    assert record["tokens_per_s"] == pytest.approx(1e3 * 3 * 7 / middle, rel=0.01)
    assert 0 < record["bandwidth_share"] < 2 and record["copying_gb_per_s"] > 0.1
    assert record["ms_per_step"] == pytest.approx((middle - record["prompt_ms"]) / 6, abs=0.01)


def test_a_step_reads_every_matrix_once_and_of_the_experts_those_that_are_met() -> None:
    model = tiny_model()
    config, layers = model.config, list(model.layers)
    experts = [p for layer in layers for name, p in layer.named_parameters() if "experts." in name]
    others = [
        p for layer in layers for name, p in layer.named_parameters() if p.ndim > 1 and "experts." not in name
    ]  # fmt: skip
    for batch in (1, 5):
        met = 1 - (1 - config.num_experts_per_tok / config.n_routed_experts) ** batch
        latents = batch * 30 * len(layers) * (config.kv_lora_rank + config.qk_rope_head_dim)
        numbers = sum(p.numel() for p in others) + met * sum(p.numel() for p in experts) + latents
        expected = 4 * (numbers + model.head.weight.numel())
        assert bytes_of_a_step(model, batch, 30) == pytest.approx(expected)


def test_rounds_are_run_when_asked_for() -> None:
    bench = DrawingBench(AskedDrawing("t", ModelSection.model_validate(SIZES), "fp32", "cpu", 2, 4, 5, 0.8))
    assert [len(one) for one in bench._draw(5)] == [5, 5]
    said: list[str] = []
    serve(bench, io.StringIO("go\ngo\nquit\n"), said.append)
    assert said[0] == "READY t batch 2 prompt 4 new 5 temperature 0.8 fp32 cpu"
    assert [list(json.loads(line)) for line in said[1:3]] == [["round_ms"]] * 2
    assert json.loads(said[3])["what"] == "generate"


def test_a_trained_model_drafts_its_own_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tiny_model(tiny_config(vocab_size=5)), tmp_path / "model", bos_id=0, eos_id=1, pad_id=2)
    options = ["--model", str(tmp_path / "model"), "--draft", "2", "--prompt", "5", "--new", "40", "--rounds", "2"]
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "generate", *options, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["config"].endswith("model batch 1 prompt 5 new 40 greedy fp32 cpu draft 2")
    assert 0 < record["accepted"] < record["drafted"]
    before = record["tokens_per_s"]
    eight_bits = main_exit(["bench", "generate", *options, "--int8", "--json"])
    if native_library() is None:
        assert eight_bits == 2 and "C++ compiler" in capsys.readouterr().err
    else:
        assert json.loads(capsys.readouterr().out)["config"].endswith("draft 2 8 bits") and before > 0


def main_exit(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_prompts_are_the_same_in_every_call() -> None:
    assert drawn_prompts(50, 3, 6) == drawn_prompts(50, 3, 6)
    assert len({tuple(row) for row in drawn_prompts(50, 3, 6)}) == 3


def test_transformers_draws_beside_it(tiny: Path) -> None:
    pytest.importorskip("transformers")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/transformers_generate.py"), "--config", str(tiny), "--batch", "2"]
    done = subprocess.run(
        [*command, "--prompt", "5", "--new", "4", "--rounds", "2"],
        env=environment, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["config"] == "tiny batch 2 prompt 5 new 4 greedy fp32 cpu grouped_mm"
    assert record["tokens_per_s"] > 0 and len(record["rounds_ms"]) == 2
