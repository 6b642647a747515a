"""What `sapience plan` says: memory against what autograd and the optimizer really keep, V3's tokens, the JSON others read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from living import Living
from tiny_models import random_batch, tiny_config, tiny_model

from sapience.cli import main
from sapience.model.batch import from_rows
from sapience.model.huggingface import save_model
from sapience.planning.memory import activation_bytes, gpu_bytes, one_process
from sapience.planning.parameters import count_parameters
from sapience.planning.plan import plan_recipe
from sapience.planning.shapes import find_shape
from sapience.recipe import load_recipe
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import plan_steps, rows_of_steps

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes"
WIDER = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 40, "kv_lora_rank": 16,
    "num_attention_heads": 4, "q_lora_rank": 24, "v_head_dim": 12,
}  # fmt: skip
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_nextn_predict_layers": 0},
    {"num_nextn_predict_layers": 2},
    {"q_lora_rank": None, "tie_word_embeddings": True},
    {"first_k_dense_replace": 0, "n_routed_experts": 16, "num_experts_per_tok": 4},
    {"num_hidden_layers": 6, "hidden_size": 128, "first_k_dense_replace": 3, "n_shared_experts": 0},
    {"scoring_func": "softmax", "norm_topk_prob": False, "n_shared_experts": 2},
]


def kept_bytes(config: ModelSection, rows: int, length: int) -> int:
    """Distinct memory, parameters left out, that autograd holds after the forward pass of a micro-batch."""
    model = tiny_model(config)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(config.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    batch = from_rows(tokens, torch.zeros(rows, length + 1, dtype=torch.int32))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        NextTokens(0.3, 1e-4)(model, batch)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("changes", VARIANTS)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any]) -> None:
    config = tiny_config(**WIDER | changes)
    for rows, length in ((4, 128), (2, 64)):
        assert activation_bytes(config, rows * length) == pytest.approx(kept_bytes(config, rows, length), rel=0.02)


@pytest.mark.parametrize("parts", [["norms"], ["attention_up"], ["norms", "attention_up"]], ids=str)
@pytest.mark.parametrize("changes", VARIANTS)
def test_what_is_made_again_is_not_counted(changes: dict[str, Any], parts: list[Any]) -> None:
    """As much less as really is there between the passes."""
    config = tiny_config(**WIDER | changes)
    batch = random_batch(config, 4, 65)

    def held(recomputed: list[Any]) -> int:
        model, living = tiny_model(config), Living()
        model.recompute(recomputed)
        with living:
            loss = NextTokens(0.3, 1e-4)(model, batch)
        assert loss[0].requires_grad
        return living.bytes

    saved = activation_bytes(config, 4 * 65) - activation_bytes(config, 4 * 65, parts)
    assert held([]) - held(parts) == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("changes", VARIANTS[:4])
def test_optimizer_state_is_what_the_optimizer_holds(name: Any, moments: Any, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    model, section = tiny_model(config), OptimizerSection(name=name, moments=moments)
    optimizer = OptimizerSet(model, section)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(0.0)
    held = sum(value.nbytes for key, value in optimizer.tensors().items() if not key.startswith("step/"))
    assert held == one_process(config, section, "fp32", 1, 32)["optimizer"]


@pytest.mark.parametrize(
    ("shape", "precision", "measured_gib"),
    [
        ("small", "bf16", 29.9 + 1.0),
        ("v3slice", "fp8", 27.9 + 1.0),
        (str(ROOT / "benchmarks" / "precision.yaml"), "bf16", 40.2),
        (str(RECIPES / "gpu.yaml"), "fp8", 11.1),
    ],
)
def test_what_a_gpu_holds_is_near_what_was_measured(shape: str, precision: Any, measured_gib: float) -> None:
    """PyTorch's peak and a GiB for CUDA, or what `nvidia-smi` said of a process."""
    found = find_shape(shape)
    optimizer = OptimizerSection(moments="bf16", name="muon" if shape.endswith("precision.yaml") else "adamw")
    needed, wide = (
        gpu_bytes(one_process(found.model, optimizer, each, found.rows, found.length)) / (1 << 30)
        for each in (precision, "fp32")
    )
    assert 0.95 < needed / measured_gib < 1.3
    assert needed < wide


def test_v3s_recipe_is_trained_on_its_published_tokens() -> None:
    """14.8 T tokens, the batch full after 469 B, 2000 steps of warm-up, 62.9 B tokens in each phase of the extension."""
    recipe = load_recipe(RECIPES / "v3-671b.yaml")
    section = recipe.pretrain
    rows = rows_of_steps(section.batch, section.steps)
    assert sum(rows) * 4096 == pytest.approx(14.8e12, rel=1e-4)
    assert rows[0] == 3072 and rows[-1] == 15360
    full = rows.index(15360)
    assert sum(rows[:full]) * 4096 == pytest.approx(469e9, rel=1e-3)
    steps = plan_steps(section.steps, section.batch, section.schedule, section.balance, section.prediction)
    assert next(i for i, step in enumerate(steps) if step.learning_rate == 2.2e-4) == pytest.approx(2000, abs=15)
    at = {
        trillions: next(s for s in steps if s.first_row * 4096 > trillions * 1e12)
        for trillions in (9.9, 10.1, 14.29, 14.4, 14.7)
    }
    assert at[9.9].learning_rate == 2.2e-4 and at[9.9].prediction_weight == 0.3 and at[10.1].prediction_weight == 0.1
    assert at[14.29].gamma == 0.001 and at[14.4].gamma == 0.0
    assert at[14.4].learning_rate == pytest.approx(2.2e-5) and at[14.7].learning_rate == pytest.approx(7.3e-6, rel=1e-5)
    made = {stage.name: stage for stage in plan_recipe(recipe).stages}
    assert {name: stage.length for name, stage in made.items()} == {
        "pretrain": 4096,
        "extend x8": 32768,
        "extend x32": 131072,
    }
    assert all(made[name].tokens == pytest.approx(62.9e9, rel=1e-3) for name in ("extend x8", "extend x32"))


def test_the_16b_recipe_is_trained_on_its_published_tokens() -> None:
    made = plan_recipe(load_recipe(RECIPES / "v3-lite-16b.yaml"))
    assert made.stages[0].tokens == pytest.approx(1.33e12, rel=1e-4)


def test_json_and_table_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "v3-671b.yaml")
    for arguments in (["plan", recipe, "--json"], ["plan", recipe]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code
        out = capsys.readouterr().out
        if "--json" in arguments:
            record = json.loads(out)
    assert record["parameters"]["main"] == sum(record["parameters"]["main_parts"].values()) == 671_026_404_352
    assert record["parameters"]["mtp"] == 11_610_067_968 and record["kv_cache_bytes_per_token"] == 70_272
    memory = record["memory_bytes"]
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert record["processes"] == 1
    assert memory["weights"] == 4 * (671_026_404_352 + 11_610_067_968) and memory["optimizer"] == 2 * memory["weights"]
    for shown in ("671,026,404,352", "37,552,282,624", "11,610,067,968", "70,272", "14.8 trillion", "260.6 GFLOP"):
        assert shown in out


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out or told.err


def test_v3_on_its_2048_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Pipelines of 16 ranks by DualPipe, experts over 64 (report, section 3.2): two of 16 stages and 4 of 256 experts each."""
    v3 = str(RECIPES / "v3-671b.yaml")
    layout = ["parallel.pipeline=16", "parallel.schedule=dualpipe", "parallel.expert=64", "pretrain.precision=fp8"]
    layout += ["parallel.extend={pipeline: 16, expert: 64, context: 8}", "pretrain.batch.start_rows=15360"]
    code, out = planned(capsys, v3, "--processes", "2048", "--json", *layout)
    record = json.loads(out)
    memory = record["stages"]["pretrain"]["memory_bytes"]
    assert code == 0 and record["processes"] == 2048
    # in the middle of a pipeline: attention of 187 M weights, a shared expert of 44 M, and 4 of 256 like it
    assert memory["weights"] / 4 == pytest.approx(2 * 4 * (187e6 + 5 * 44.04e6 + 256 * 7168), rel=1e-3)
    assert memory["gradients"] == memory["weights"] == 2 * memory["copies"]
    assert memory["optimizer"] < memory["weights"]
    code, out = planned(capsys, v3, "--processes", "2048", *layout)
    assert "the fullest of 2,048 devices" in out and "weights in bfloat16" in out
    code, out = planned(capsys, v3, "--processes", "2040", *layout)
    assert code == 2 and "2040 processes are no multiple of parallel.pipeline=16" in out
    code, out = planned(capsys, v3, *layout)
    assert code == 0 and "if one device did it alone" in out


@pytest.mark.parametrize("processes", [1, 4])
def test_a_phase_without_steps(capsys: pytest.CaptureFixture[str], processes: int) -> None:
    phases = "extend.phases=[{factor: 8, steps: 0, batch: {rows: 4, micro_rows: 1}, peak: 1.0e-3}]"
    layout = ["--processes", str(processes), "parallel.pipeline=2", "parallel.schedule=dualpipe"]
    code, out = planned(capsys, str(RECIPES / "v3-lite-16b.yaml"), "--json", phases, *layout)
    stage = json.loads(out)["stages"]["extend x8"]
    assert code == 0 and stage["tokens"] == 0 and stage["memory_bytes"]["activations"] > 0


def test_a_model_of_ones_own_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The folder's own sizes and context are counted, not the recipe's defaults."""
    config = tiny_config(max_position_embeddings=96)
    save_model(tiny_model(config), tmp_path / "mine", 0, 1, 2)
    records = {}
    for name, change in (("assistant-own-model", "finetune.model"), ("extend-own-model", "extend.model")):
        with pytest.raises(SystemExit):
            main(["plan", str(RECIPES / f"{name}.yaml"), f"{change}={tmp_path / 'mine'}", "--json"])
        records[name] = json.loads(capsys.readouterr().out)
        assert records[name]["parameters"]["main"] == count_parameters(config).main
    assert records["assistant-own-model"]["stages"] == {} == records["assistant-own-model"]["memory_bytes"]
    assert [stage["length"] for stage in records["extend-own-model"]["stages"].values()] == [8 * 96, 32 * 96]
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(RECIPES / "assistant-own-model.yaml"), "--json"])
    assert ended.value.code == 2 and "my-model" in capsys.readouterr().err
