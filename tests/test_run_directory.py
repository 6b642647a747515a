"""The run directory: files are whole or absent, fingerprints follow meaning, one process writes, names resolve."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience import run as module
from sapience.recipe import UserError
from sapience.run import (
    Manifest,
    empty_folder,
    fingerprint,
    hash_model_folder,
    locked,
    read_manifest,
    resolve_model,
    resolve_run,
    write_atomically,
    write_manifest,
)

MANIFEST = Manifest(
    "pretrain", 2, "0123456789abcdef", {"corpus": "aa"}, 12.5, {"loss": 3.1, "é": [1, 2]}, ["n"], {"a": "1"}
)


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stage": "x"}', '{"unknown": 1}', "null", "\x00"])
def test_a_damaged_manifest_is_none(damage: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(damage)
    assert read_manifest(tmp_path) is None


def test_a_manifest_of_a_later_sapience_with_a_field_more_is_read(tmp_path: Path) -> None:
    """Or else a run made by a newer version would be thrown away by an older one."""
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert read_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures.json"
    write_atomically(path, "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, failing, full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["figures.json"]


@given(st.binary(max_size=50))
def test_bytes_are_written_as_they_are(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_atomically(Path(folder) / "x", content)
        assert (Path(folder) / "x").read_bytes() == content


def test_a_fingerprint_follows_version_recipe_and_inputs_and_not_their_order() -> None:
    base = fingerprint(1, {"a": {"x": 1, "y": [1, 2]}, "seed": 0}, {"corpus": "aa", "tokenizer": "bb"})
    assert base == fingerprint(1, {"seed": 0, "a": {"y": [1, 2], "x": 1}}, {"tokenizer": "bb", "corpus": "aa"})
    others = [
        fingerprint(2, {"a": {"x": 1, "y": [1, 2]}, "seed": 0}, {"corpus": "aa", "tokenizer": "bb"}),
        fingerprint(1, {"a": {"x": 1, "y": [2, 1]}, "seed": 0}, {"corpus": "aa", "tokenizer": "bb"}),
        fingerprint(1, {"a": {"x": 1, "y": [1, 2]}, "seed": 1}, {"corpus": "aa", "tokenizer": "bb"}),
        fingerprint(1, {"a": {"x": 1, "y": [1, 2]}, "seed": 0}, {"corpus": "ab", "tokenizer": "bb"}),
        fingerprint(1, {"a": {"x": 1, "y": [1, 2]}, "seed": 0}, {"corpus": "aa"}),
    ]
    assert len({base, *others}) == 6
    assert len(base) == 16 and int(base, 16) >= 0


def test_the_fingerprint_itself_stays_what_it_was() -> None:
    """Runs on people's disks carry these: a change here redoes them all."""
    assert fingerprint(1, {"a": 1}, {"b": "c"}) == "9154c919c28f3167"


HOLD = """
import sys, time
from pathlib import Path
from sapience.run import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is working in"), locked(tmp_path / "run"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def make_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_named_by_run_by_run_and_stage_or_by_folder(here: Path) -> None:
    run = here / "runs" / "demo"
    for stage in ("pretrain", "extend"):
        make_model(run / stage / "model")
    (run / "recipe.yaml").write_text("")
    make_model(here / "elsewhere@home")
    assert resolve_model("demo").resolve() == run / "extend" / "model"
    assert resolve_model("demo@pretrain").resolve() == run / "pretrain" / "model"
    assert resolve_model("runs/demo@extend").resolve() == run / "extend" / "model"
    assert resolve_model(str(run)) == run / "extend" / "model"
    assert resolve_model(str(run / "pretrain" / "model")) == run / "pretrain" / "model"
    assert resolve_model("elsewhere@home") == Path("elsewhere@home")
    with pytest.raises(UserError, match="no model of stage 'reward': it has models of: pretrain, extend"):
        resolve_model("demo@reward")


def test_a_model_that_is_not_there_is_explained(here: Path) -> None:
    with pytest.raises(UserError, match="nowhere is neither a run nor a Hugging Face folder"):
        resolve_model("nowhere")
    (here / "runs" / "young").mkdir(parents=True)
    (here / "runs" / "young" / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match="no stage of it has made a model yet"):
        resolve_model("young")
    with pytest.raises(UserError, match="no model of stage 'pretrain': no stage of it has made a model yet"):
        resolve_model("young@pretrain")


def test_a_run_is_found_by_name_and_path_and_a_missing_one_told_with_those_that_exist(here: Path) -> None:
    with pytest.raises(UserError, match="no run demo: runs/ is empty here"):
        resolve_run("demo")
    for name in ("b", "a"):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "recipe.yaml").write_text("")
    assert resolve_run("a") == Path("runs/a") and resolve_run(str(here / "runs" / "b")) == here / "runs" / "b"
    with pytest.raises(UserError, match="no run c: there are a, b"):
        resolve_run("c")


def test_a_models_fingerprint_is_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_model(tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "README.md").write_text(name)
    assert hash_model_folder(tmp_path / "one") == hash_model_folder(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(b"weightz")
    assert hash_model_folder(tmp_path / "one") != hash_model_folder(tmp_path / "two")


def test_a_kill_while_a_folder_is_emptied_leaves_no_word_that_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_manifest(folder, MANIFEST)
    (folder / "pending.json").write_text("{}")
    (folder / "product").write_text("x")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.shutil, "rmtree", killed)
        empty_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["product"]
    empty_folder(folder)
    assert not list(folder.iterdir())


def test_a_kept_line_outlives_a_session_that_has_none(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.txt"
    assert module.kept_text(path, "") == "" and not path.exists()
    assert module.kept_text(path, "Landlock") == module.kept_text(path, "") == "Landlock"
    assert module.kept_text(path, "bubblewrap") == path.read_text() == "bubblewrap"


def test_a_run_in_the_home_folder_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    run = here / "home" / "demo"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("")
    assert resolve_run("~/demo") == run
