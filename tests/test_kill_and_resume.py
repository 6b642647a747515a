"""A whole journey killed with SIGKILL at random moments of every stage ends with the bits of an undisturbed one.

Real processes, real files: `python -m sapience run`, again and again until it says it is done.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tiny_journey import write_recipe, write_texts

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("counters.json", "results.json", "figures.json", "side_by_side.json")
TIMING = {"seconds", "tokens_per_second", "training_seconds", "drawing_seconds"}
POST_TRAINING = ("specialise", "distill", "review", "finetune", "reward", "reinforce")
LONGEST = {
    "corpus": 1.0, "tokenizer": 0.3, "pretrain": 5.0, "extend": 4.0, "specialise": 4.0, "distill": 1.0, "review": 0.2,
    "finetune": 9.0, "reward": 2.0, "reinforce": 1.5, "evaluate": 3.0, "report": 3.0,
}  # fmt: skip
"""Seconds after its beginning within which a stage is killed."""
TEXTS_SEED = 5


def start(recipe: Path, runs: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sapience", "run", str(recipe), *overrides, "--runs", str(runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(recipe: Path, runs: Path, *overrides: str) -> None:
    process = start(recipe, runs, *overrides)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]


def kill_in(stage: str, delay: float, recipe: Path, runs: Path) -> bool:
    """Start, wait until the stage is at work, wait `delay` seconds more, SIGKILL. False where it was done before."""
    process = start(recipe, runs)
    folder = runs / "tiny" / stage
    while process.poll() is None and not ((folder / "pending.json").is_file() or (folder / "manifest.json").is_file()):
        time.sleep(0.004)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), output[-3000:]
    return process.returncode != 0


def without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_timing(part) for key, part in value.items() if key not in TIMING}
    return [without_timing(part) for part in value] if isinstance(value, list) else value


def made_by(run: Path) -> dict[str, Any]:
    """Everything a run made that does not tell the time."""
    made: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if "checkpoints" in name or "tensorboard" in name or name.startswith("report") or not path.is_file():
            continue
        if path.name.endswith(".partial.jsonl"):
            continue
        if path.suffix in {".safetensors", ".bin", ".npz", ".zst"} or path.name == "tokenizer.json":
            made[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".jsonl":
            made[name] = [without_timing(json.loads(line)) for line in path.read_text().split("\n") if line]
        elif path.name in (
            "counters.json",
            "results.json",
            "figures.json",
            "side_by_side.json",
        ) or path.name.startswith("map-"):
            made[name] = without_timing(json.loads(path.read_text()))
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            made[name] = [manifest["fingerprint"], without_timing(manifest["figures"])]
    return made


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] != other[name]]
    weights = [name for name in one if name.endswith(".safetensors")]
    assert {name.split("/")[0] for name in weights} == {
        "pretrain",
        "extend",
        "specialise",
        "finetune",
        "reward",
        "reinforce",
    }
    assert len(one["pretrain/manifest.json"][1]["stream"]) == 32
    assert len(one["extend/phase-2/counters.json"]["stream"]) == 32


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.rglob("*") if path.name.endswith(".partial") or path.name.startswith(".building")]


def kill_everywhere(kills: list[tuple[str, float]], recipe: Path, runs: Path) -> int:
    """Kill and start again in the given stages after the given delays; returns how many kills struck."""
    struck = sum(kill_in(stage, delay, recipe, runs) for stage, delay in kills)
    finish(recipe, runs)
    return struck


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_texts(tmp_path / "texts", seed=TEXTS_SEED)
    return write_recipe(tmp_path / "recipe.yaml", tmp_path / "texts")


def test_a_journey_killed_in_every_stage_makes_the_same(recipe: Path, tmp_path: Path) -> None:
    finish(recipe, tmp_path / "whole")
    rng = Random()
    seed = rng.randrange(10**6)
    print(f"seed of the kills: {seed}")
    rng = Random(seed)
    kills = [("corpus", rng.uniform(0, 0.6)), ("tokenizer", rng.uniform(0, 0.1))]
    kills += [("pretrain", rng.uniform(0.5, 4.0)), ("pretrain", rng.uniform(2.0, 4.0))]
    kills += [("extend", rng.uniform(0, 0.8)), ("extend", rng.uniform(2.0, 3.5))]
    kills += [(stage, rng.uniform(0, LONGEST[stage])) for stage in POST_TRAINING]
    kills += [("evaluate", rng.uniform(0, 0.3)), ("report", rng.uniform(0, 0.3))]
    assert kill_everywhere(kills, recipe, tmp_path / "killed") >= 6
    assert_same(made_by(tmp_path / "whole" / "tiny"), made_by(tmp_path / "killed" / "tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_journey_killed_many_times_makes_the_same(seed: int, recipe: Path, tmp_path: Path) -> None:
    finish(recipe, tmp_path / "whole")
    rng = Random(seed)
    kills = [(stage, rng.uniform(0, longest)) for stage, longest in LONGEST.items() for _ in range(6)]
    assert kill_everywhere(kills, recipe, tmp_path / "killed") >= 30
    assert_same(made_by(tmp_path / "whole" / "tiny"), made_by(tmp_path / "killed" / "tiny"))
    assert not leftovers(tmp_path / "killed" / "tiny" / "pretrain")


@pytest.mark.slow
def test_the_same_seed_twice_is_the_same_and_another_seed_is_not(recipe: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        finish(recipe, tmp_path / name, f"seed={seed}")
        made.append(made_by(tmp_path / name / "tiny"))
    assert_same(made[0], made[1])
    assert made[0]["pretrain/model/model.safetensors"] != made[2]["pretrain/model/model.safetensors"]
    assert made[0]["pretrain/manifest.json"][1]["stream"] != made[2]["pretrain/manifest.json"][1]["stream"]
