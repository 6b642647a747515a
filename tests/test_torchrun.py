"""Several processes make what one makes, from the same recipe; a run goes on with another number of them, and after a kill."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_journey import journey_recipe, write_texts

SLOWEST = 90


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    write_texts(folder / "texts")
    tree = journey_recipe(folder / "texts")
    tree["pretrain"] |= {"batch": {"rows": 12, "start_rows": 8, "ramp": 0.2, "micro_rows": 2}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def started(
    recipe: Path, runs: Path, processes: int, *more: str, restarts: int = 0, last: str = "pretrain"
) -> "subprocess.Popen[str]":
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    launcher += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "sapience"]
    begin = launcher if processes > 1 else ["-m", "sapience"]
    return subprocess.Popen(
        [sys.executable, *begin, "run", str(recipe), "--to", last, "--runs", str(runs), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=SLOWEST)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def figures(runs: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((runs / "tiny/pretrain/manifest.json").read_text())["figures"]
    return told


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    runs = recipe.parent / "alone"
    assert finished(started(recipe, runs, 1))[0] == 0
    return runs


def same(runs: Path, other: Path) -> None:
    ours, theirs = figures(runs), figures(other)
    assert ours["stream"] == theirs["stream"]
    assert ours["tokens"] == theirs["tokens"]
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], abs=0.02)
    mine, yours = (load_file(next((each / "tiny/pretrain/model").glob("*.safetensors"))) for each in (runs, other))
    assert mine.keys() == yours.keys()
    for key, value in mine.items():
        assert value.shape == yours[key].shape
        assert float((value - yours[key]).norm()) < 0.02 * float(yours[key].norm()), key
    lines = [
        [json.loads(line)["loss"] for line in (each / "tiny/pretrain/metrics.jsonl").read_text().splitlines()]
        for each in (runs, other)
    ]
    assert lines[0] == pytest.approx(lines[1], abs=2e-3)


@pytest.mark.parametrize("options", [
    ("parallel.pipeline=2", "parallel.expert=2"),
    pytest.param(
        ("parallel.pipeline=2", "parallel.schedule=dualpipe", "parallel.shard_optimizer=false"), marks=pytest.mark.slow
    ),
], ids=" ".join)  # fmt: skip
def test_four_processes_make_what_one_makes(
    options: tuple[str, ...], recipe: Path, alone: Path, tmp_path: Path
) -> None:
    code, said = finished(started(recipe, tmp_path, 4, *options))
    assert code == 0, said
    assert "4 processes work together" in said
    same(tmp_path, alone)


def until_step(runs: Path, step: int, process: "subprocess.Popen[str]") -> None:
    folder = runs / "tiny/pretrain/checkpoints"
    for _ in range(10 * SLOWEST):
        if any(int(each.name.removeprefix("step-")) >= step for each in folder.glob("step-*")):
            return
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.parametrize("later", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_of_four_goes_on_with_fewer(later: int, recipe: Path, alone: Path, tmp_path: Path) -> None:
    process = started(recipe, tmp_path, 4, "parallel.pipeline=2", "parallel.expert=2")
    until_step(tmp_path, 10, process)
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(
        ["pkill", "-KILL", "-f", str(tmp_path)], check=False
    )  # ranks are no children of the launcher's group
    process.communicate()
    assert not (tmp_path / "tiny/pretrain/manifest.json").exists()
    options = ("parallel.expert=" + str(later), "parallel.shard_weights=true")
    code, said = finished(started(recipe, tmp_path, later, *options))
    assert code == 0, said
    assert "going on where it was interrupted" in said
    same(tmp_path, alone)


def test_a_killed_process_is_started_again_with_the_others(recipe: Path, alone: Path, tmp_path: Path) -> None:
    process = started(recipe, tmp_path, 2, "parallel.pipeline=2", restarts=2)
    until_step(tmp_path, 10, process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    code, said = finished(process)
    assert code == 0, said
    assert "going on where it was interrupted" in said
    same(tmp_path, alone)


def test_what_cannot_be_is_said_once(recipe: Path, tmp_path: Path) -> None:
    code, said = finished(started(recipe, tmp_path, 2, "parallel.pipeline=2", "parallel.schedule=dualpipev"))
    assert code != 0
    assert said.count("4 stages (dualpipev) need as many layers, and the model has 2") == 1
    code, said = finished(started(recipe, tmp_path, 1, "parallel.pipeline=2"))
    assert code == 2
    assert "start them with torchrun" in " ".join(said.split())


@pytest.fixture(scope="module")
def extended(recipe: Path, alone: Path) -> Path:
    """The single process's run, as far as the longer context."""
    assert finished(started(recipe, alone, 1, last="extend"))[0] == 0
    return alone


def same_extension(runs: Path, other: Path) -> None:
    for phase in ("phase-1", "phase-2"):
        told = [json.loads((each / "tiny/extend" / phase / "counters.json").read_text()) for each in (runs, other)]
        assert told[0]["stream"] == told[1]["stream"] and told[0]["tokens"] == told[1]["tokens"]
        mine, yours = (load_file(each / "tiny/extend" / phase / "model.safetensors") for each in (runs, other))
        assert mine.keys() == yours.keys()
        for key, value in mine.items():
            assert float((value - yours[key]).norm()) < 0.02 * float(yours[key].norm()), key


@pytest.mark.parametrize("options", [
    ("parallel.extend.context=2",),
    pytest.param(("parallel.pipeline=2", "parallel.extend.context=2", "parallel.extend.expert=2"), marks=pytest.mark.slow),
    pytest.param(("parallel.extend.context=2", "parallel.extend.shard_weights=true"), marks=pytest.mark.slow),
], ids=" ".join)  # fmt: skip
def test_ranks_that_share_long_rows_extend_the_context_as_one_does(
    options: tuple[str, ...], recipe: Path, extended: Path, tmp_path: Path
) -> None:
    code, said = finished(started(recipe, tmp_path, 2, *options, last="extend"))
    assert code == 0, said
    same_extension(tmp_path, extended)


@pytest.mark.slow
def test_an_extension_of_two_that_was_killed_goes_on_with_one(recipe: Path, extended: Path, tmp_path: Path) -> None:
    process = started(recipe, tmp_path, 2, "parallel.extend.context=2", last="extend")
    folder = tmp_path / "tiny/extend/checkpoints-2"
    while process.poll() is None and not list(folder.glob("step-*")):
        time.sleep(0.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-KILL", "-f", str(tmp_path)], check=False)
    process.communicate()
    code, said = finished(started(recipe, tmp_path, 1, last="extend"))
    assert code == 0, said
    same_extension(tmp_path, extended)


def members(process: "subprocess.Popen[str]") -> list[int]:
    """The ranks' process numbers."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


@pytest.mark.slow
def test_twenty_kills_at_random_change_nothing(recipe: Path, alone: Path, tmp_path: Path) -> None:
    """Any rank, at any moment: while it starts, trains, measures or writes; one run after another until there were twenty."""
    rng, kills, runs = random.Random(0), 0, 0
    options = ("parallel.pipeline=2", "parallel.shard_optimizer=false", "pretrain.checkpoint_every=1")
    while kills < 20:
        runs += 1
        process = started(recipe, tmp_path / str(runs), 2, *options, restarts=20)
        while kills < 20 and process.poll() is None:
            time.sleep(rng.uniform(0, 9))
            ranks = members(process)
            if len(ranks) == 2 and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(ranks), signal.SIGKILL)
                    kills += 1
        code, said = finished(process)
        assert code == 0, said
        same(tmp_path / str(runs), alone)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_costs_that_checkpoint_only(
    recipe: Path, alone: Path, tmp_path: Path
) -> None:
    """Until one was torn in fact."""
    folder, options = tmp_path / "tiny/pretrain/checkpoints", ("parallel.expert=2", "pretrain.checkpoint_every=1")
    for _ in range(8):
        process = started(recipe, tmp_path, 2, *options)
        while process.poll() is None and not (list(folder.glob("step-*")) and list(folder.glob(".building-*"))):
            time.sleep(0.001)
        for number in members(process):
            os.kill(number, signal.SIGKILL)
        process.communicate()
        torn = list(folder.glob(".building-*"))
        if torn:
            break
    assert torn and list(folder.glob("step-*"))
    code, said = finished(started(recipe, tmp_path, 2, *options))
    assert code == 0, said
    assert "going on where it was interrupted" in said
    same(tmp_path, alone)
