"""The timing of training steps: the shapes it knows, what it reports, and the protocol in which systems take turns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sapience.cli import main
from sapience.planning.parameters import count_parameters, training_operations
from sapience.planning.shapes import SHAPES, find_shape
from sapience.recipe import UserError
from sapience.training import bench_ops
from sapience.training.bench import Asked, TrainingBench, serve, timed

TINY = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_nextn_predict_layers": 1, "unknown_field": 3,
}  # fmt: skip


def tiny(folder: Path, **changes: Any) -> Asked:
    path = folder / "tiny.json"
    path.write_text(json.dumps({"hf": TINY, "seq": 16, "batch": 4}))
    shape = find_shape(str(path))
    given: dict[str, Any] = {"number": "fp32", "device": "cpu", "rows": 4, "length": 16, "micro_rows": 4, "steps": 2}
    model = {"name": shape.name, "model": shape.model, "operations": training_operations(shape.model, 16)}
    return Asked(**(model | given | {"narrow": False, "compiled": False, "balanced": False} | changes))


@pytest.mark.parametrize(("name", "total"), [("nano", 14_196_928), ("small", 967_148_032), ("v3slice", 1_989_172_224)])
def test_named_shapes_have_the_weights_that_they_are_known_by(name: str, total: int) -> None:
    assert count_parameters(SHAPES[name].model).total == total


def test_a_shape_is_read_from_a_recipe_or_a_config(tmp_path: Path) -> None:
    assert find_shape("recipes/demo.yaml").name == "demo"
    tiny(tmp_path)
    found = find_shape(str(tmp_path / "tiny.json"))
    assert (found.rows, found.length, found.model.hidden_size) == (4, 16, 32)
    (tmp_path / "list.json").write_text("[1]")
    for name in ("nothing", str(tmp_path / "list.json"), str(tmp_path / "none.json")):
        with pytest.raises(UserError):
            find_shape(name)


def test_a_model_learns_while_it_is_timed(tmp_path: Path) -> None:
    bench = TrainingBench(tiny(tmp_path, steps=10))
    seen: list[float] = []
    record = timed(bench, 3, seen.append)
    assert record["rounds_ms"] == pytest.approx(seen, abs=0.01) and record["ms_per_step"] > 0
    assert record["loss_last"] < record["loss_first"] < 4.5
    assert record["tokens_per_s"] == pytest.approx(4 * 16 * 1000 / record["ms_per_step"], rel=0.01)
    assert record["state_bytes_per_parameter"] == pytest.approx(16, rel=0.01)  # weight, gradient, two moments
    assert 0 < record["mfu"] < 1


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    whole, cut = (TrainingBench(tiny(tmp_path, micro_rows=rows)) for rows in (4, 1))
    assert torch.allclose(torch.stack(whole.losses), torch.stack(cut.losses), rtol=1e-5) and "micro 1" in cut.described


def test_balanced_routing_gives_every_expert_the_same(tmp_path: Path) -> None:
    bench = TrainingBench(tiny(tmp_path, balanced=True))
    block = bench.model.gates()[0]
    routing = block.gate(torch.randn(64, 32))
    assert routing.experts_TK.flatten().bincount().tolist() == [16] * 8
    assert not torch.equal(routing.weights_TK[:, 0], routing.weights_TK[:, 1])


def test_rounds_are_run_as_they_are_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    serve(TrainingBench(tiny(tmp_path)), ["\n", "\n", "quit\n", "\n"], said.append)
    assert said[0] == "READY tiny 4 x 16 fp32 cpu" and len(said) == 4
    rounds = [json.loads(line)["round_ms"] for line in said[1:3]]
    assert json.loads(said[3])["rounds_ms"] == pytest.approx(rounds, abs=0.01)


def test_the_command_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    options = ["--config", str(tmp_path / "tiny.json"), "--device", "cpu", "--rounds", "1", "--steps", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "train", *options, "--json"])
    assert not ended.value.code and json.loads(capsys.readouterr().out)["config"] == "tiny 4 x 16 fp32 cpu"
    monkeypatch.setattr("sys.stdin", io.StringIO("\nquit\n"))
    with pytest.raises(SystemExit):
        main(["bench", "train", *options, "--serve"])
    assert capsys.readouterr().out.count("round_ms") == 1
    with pytest.raises(SystemExit) as ended:
        main(["bench", "train", *options, "--micro", "3"])
    assert ended.value.code == 2 and "--micro" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_every_operation_is_timed(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line an operation, with its share of the ceiling or its bytes a second; FP8's own beside bfloat16's."""
    monkeypatch.setattr(bench_ops, "_LEAST_SECONDS", 0.01)
    tiny(tmp_path)
    given = ["--config", str(tmp_path / "tiny.json"), "--dtype", dtype, "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "ops", *given, "--json"])
    assert ended.value.code in (0, None)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [record["op"] for record in records]
    assert len(set(names)) == len(names)
    assert sum(not name.startswith("fp8") for name in names) == 10
    assert sum(name.startswith("fp8") for name in names) == (12 if dtype == "fp8" else 0)
    for record in records:
        assert record["what"] == "ops" and record["ms"] > 0
        assert (record["gflops"] is None) != (record["gbytes_per_s"] is None)
        assert record["of_ceiling"] is None or 0 < record["of_ceiling"] < 2
    with pytest.raises(SystemExit):
        main(["bench", "ops", *given])
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1
