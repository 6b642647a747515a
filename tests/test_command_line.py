"""The command line: a user's mistake ends in one sentence and exit code 2, `--json` prints one object and nothing else."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_journey import write_recipe, write_texts

from sapience import __version__, cli
from sapience.cli import main
from sapience.planning.machine import Machine
from sapience.recipe import UserError
from sapience.run import Manifest, write_manifest
from sapience.stages import stage_names

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def signals_stay_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGXFSZ, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def exit_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence of a command that ends with exit code 2."""
    assert exit_of(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith("sapience: ") and "Traceback" not in captured.err
    return lines[-1]


@pytest.fixture
def made_run(here: Path) -> Path:
    """A run whose corpus is made, in the folder `runs`."""
    write_texts(here / "texts", documents=3)
    run = here / "runs" / "tiny"
    (run / "corpus").mkdir(parents=True)
    write_recipe(run / "recipe.yaml", here / "texts")
    write_manifest(run / "corpus", Manifest("corpus", 1, "x", {}, 3.0, {"documents": 5, "name": "ü"}))
    return run


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such recipe": (["run", "nowhere.yaml"], "no recipe at nowhere.yaml"),
    "a folder for a recipe": (["run", "texts"], "no recipe at texts"),
    "unknown key": (["run", "bad.yaml"], "unknown key pretrian: did you mean pretrain?"),
    "bad override": (["run", "good.yaml", "pretrain.steps=none"], "pretrain.steps"),
    "override without value": (["run", "good.yaml", "pretrain.steps"], "section.field=value"),
    "impossible size": (["run", "good.yaml", "model.n_group=3"], "choose n_group from 1, 2, 4"),
    "unknown stage": (["run", "good.yaml", "--from", "dance"], "'dance' is no stage of this recipe"),
    "stages the wrong way round": (["run", "good.yaml", "--from", "extend", "--to", "corpus"], "comes after"),
    "missing input": (["run", "good.yaml", "--from", "evaluate", "--to", "report", "--force"], "nothing to evaluate"),
    "missing text": (["run", "good.yaml", "corpus.sources.0.path=gone", "--to", "corpus"], "gone"),
    "no such run": (["status", "nowhere"], "no run nowhere"),
    "report of no run": (["report", "nowhere"], "no run nowhere"),
    "model of no run": (["generate", "nowhere", "text"], "neither a run nor a Hugging Face folder"),
    "no such field": (["recipe", "explain", "pretrain.stepz"], "no field 'pretrain.stepz'"),
    "show no recipe": (["recipe", "show", "nowhere.yaml"], "no recipe at nowhere.yaml"),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sapience.planning.threads import ThreadChoice

    monkeypatch.setattr(ThreadChoice, "apply", lambda self: None)
    write_texts(here / "texts", documents=3)
    write_recipe(here / "good.yaml", here / "texts")
    (here / "bad.yaml").write_text("pretrian: {}")
    assert words in refusal(capsys, *arguments)


@pytest.mark.parametrize("arguments", [[], ["run"], ["dance"], ["run", "x.yaml", "--loud"], ["generate", "x"]], ids=str)
def test_wrong_use_is_explained_with_exit_code_2(
    arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(*arguments) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err and "Traceback" not in captured.err


def test_too_little_memory_or_disk_is_refused_before_any_work(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sapience.planning import machine

    write_texts(here / "texts", documents=3)
    write_recipe(here / "good.yaml", here / "texts")
    real = machine.examine(here)

    def small(**changes: Any) -> None:
        from dataclasses import replace

        shrunk: Machine = replace(real, **changes)
        monkeypatch.setattr(machine, "examine", lambda folder: shrunk)

    small(memory_available_bytes=1 << 20)
    assert "of memory" in refusal(capsys, "run", "good.yaml")
    small(disk_free_bytes=1 << 20)
    assert "of disk" in refusal(capsys, "run", "good.yaml")
    assert not list((here / "runs").glob("*/corpus"))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("cause: remedy"), 2, "sapience: cause: remedy\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 2, "no space left to write /a/b"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "no space left to write the run's folder"),
        (KeyboardInterrupt(), 130, "interrupted; a run goes on from here by the same command"),
    ],
    ids=["mistake", "disk full", "quota", "ctrl-c"],
)
def test_how_a_command_ends(
    error: BaseException,
    code: int,
    words: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("sapience.run.resolve_run", fails)
    assert exit_of("status", "any") == code
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_a_defect_of_sapience_is_no_users_mistake(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sapience.run.resolve_run", fails)
    with pytest.raises(ZeroDivisionError):
        main(["status", "any"])


def test_full_memory_is_one_sentence_in_every_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("sapience.run.resolve_run", fails)
    assert exit_of("status", "any") == 2
    assert capsys.readouterr().err.startswith("sapience: this machine's memory is full")


def one_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict) and text.count("\n") == 1
    return value


def test_status_as_json(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("status", "tiny", "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert list(told["stages"]) == stage_names()
    assert told["stages"]["corpus"] == {"state": "outdated", "seconds": 3.0, "figures": {"documents": 5, "name": "ü"}}
    assert told["stages"]["pretrain"] == {"state": "waiting", "seconds": None, "figures": {}}


def test_status_for_people(made_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("status", str(made_run)) == 0
    shown = capsys.readouterr().out
    assert "outdated" in shown and "waiting" in shown and "documents 5" in shown


def test_doctor_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("doctor", "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert told and all(set(row) == {"state", "remedy"} for row in told.values())


@pytest.fixture
def model_folder(here: Path) -> Path:
    """A random model with a tokenizer of its own, as a stage leaves it."""
    from tiny_models import tiny_config, tiny_model

    from sapience.corpus.tokenizer import train_tokenizer
    from sapience.model.huggingface import save_model

    folder = here / "runs" / "tiny" / "pretrain" / "model"
    tokenizer = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
    special = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    save_model(tiny_model(tiny_config(vocab_size=288)), folder, *special)
    tokenizer.save(folder)
    (here / "runs" / "tiny" / "recipe.yaml").write_text("{}")
    return folder


@pytest.mark.parametrize("temperature", ["0", "0.9"])
def test_generation_as_json_is_what_is_streamed_to_people(
    temperature: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "tiny", "Ada é ", "--tokens", "12", "--temperature", temperature, "--seed", "4"]
    assert exit_of(*arguments, "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert set(told) == {"prompt", "text", "finished"} and told["prompt"] == "Ada é "
    assert exit_of(*arguments) == 0
    assert capsys.readouterr().out.rstrip("\n") == (told["prompt"] + told["text"]).rstrip("\n")
    assert exit_of("generate", str(model_folder), *arguments[2:], "--json") == 0
    assert one_object(capsys.readouterr().out) == told


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_a_model_folder_that_lacks_a_file_is_named(
    missing: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_folder / missing).unlink()
    told = refusal(capsys, "generate", "tiny@pretrain", "Ada ")
    assert "tokenizer.json" in told if missing == "tokenizer.json" else "weights are missing" in told


def test_help_version_and_recipes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("--help") == 0
    shown = capsys.readouterr().out
    for command in ("run", "status", "report", "generate", "doctor", "recipe"):
        assert command in shown
    assert exit_of("--version") == 0
    assert capsys.readouterr().out == f"sapience {__version__}\n"
    write_texts(here / "texts", documents=3)
    write_recipe(here / "good.yaml", here / "texts")
    assert exit_of("recipe", "show", "good.yaml", "seed=9") == 0
    assert "\nseed: 9\n" in capsys.readouterr().out
    assert exit_of("recipe", "explain", "pretrain.steps") == 0
    assert "Optimizer steps" in capsys.readouterr().out


def start(arguments: list[str], folder: Path, **settings: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "sapience", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


@pytest.mark.parametrize(("kilobytes", "last"), [(20, "corpus"), (180, "pretrain")])
def test_a_disk_that_fills_up_is_told_and_the_same_command_goes_on(kilobytes: int, last: str, here: Path) -> None:
    """The limit on a file's size stands for a full disk: 180 KB hold every file but a checkpoint's moments."""
    write_texts(here / "texts", documents=300)
    recipe = write_recipe(here / "good.yaml", here / "texts", stages=["corpus", "tokenizer", "pretrain"])
    limit = kilobytes * 1024

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = ["run", str(recipe), "pretrain.steps=4", "pretrain.evaluations=0", "--to", last]
    full = start(arguments, here, preexec_fn=small_disk)
    _, told = full.communicate(timeout=120)
    assert full.returncode == 2, told
    assert "Traceback" not in told
    assert told.strip().splitlines()[-1].startswith("sapience: no space left to write")
    again = start(arguments, here)
    _, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert "going on where it was interrupted" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interrupted_run_says_how_to_go_on(number: signal.Signals, here: Path) -> None:
    write_texts(here / "texts", documents=40)
    recipe = write_recipe(here / "good.yaml", here / "texts", stages=["corpus", "tokenizer", "pretrain"])
    process = start(["run", str(recipe), "pretrain.steps=100000"], here)
    metrics = here / "runs" / "tiny" / "pretrain" / "metrics.jsonl"
    while process.poll() is None and not metrics.is_file():
        time.sleep(0.02)
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert out == "" and "Traceback" not in told
    assert told.strip().endswith("sapience: interrupted; a run goes on from here by the same command")


def test_the_module_and_the_function_are_the_same_command() -> None:
    assert cli.main is main
