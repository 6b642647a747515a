"""How a run's models draw for people: as many drafts as its recipe says or the command asks for, and weights of 8 bits."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_config, tiny_model

from sapience.cli import main
from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import train_tokenizer
from sapience.inference import native_network
from sapience.inference.engine import Engine
from sapience.inference.native_network import NativeNetwork
from sapience.model.huggingface import save_model
from sapience.recipe import UserError
from sapience.serving.models import load_speaker
from sapience.serving.run_models import drafted_ahead

TOKENIZER = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
COMMANDS = {
    "chat": ["--message", "Who?", "--tokens", "30", "--json"],
    "generate": ["Ada ", "--tokens", "30", "--json"],
}


def save(folder: Path, seed: int = 0) -> Path:
    model = tiny_model(tiny_config(vocab_size=288, max_position_embeddings=128), seed)
    save_model(model, folder, TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id)
    TOKENIZER.save(folder, ChatFormat(TOKENIZER).template)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    for seed, stage in enumerate(("pretrain", "finetune")):
        save(run / stage / "model", seed)
    (run / "recipe.yaml").write_text("serve: {draft: 3}")
    return run


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weights can be had in 8 bits."""
    monkeypatch.setattr("sapience.serving.answering.choose_device", lambda _: torch.device("cpu"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Every engine that is made, by whatever way."""
    engines: list[Engine] = []
    begin = Engine.__init__

    def remember(engine: Engine, *arguments: Any, **options: Any) -> None:
        begin(engine, *arguments, **options)
        engines.append(engine)

    monkeypatch.setattr(Engine, "__init__", remember)
    return engines


def exit_of(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


def test_as_asked_else_as_the_runs_recipe_says_else_one(run: Path, tmp_path: Path) -> None:
    model = run / "finetune" / "model"
    assert [drafted_ahead(model, asked) for asked in (None, 0, 8)] == [3, 0, 8]
    assert drafted_ahead(save(tmp_path / "own" / "model")) == 1
    (tmp_path / "recipe.yaml").write_text("name: older")  # than the section
    assert drafted_ahead(tmp_path / "own" / "model") == 1
    (tmp_path / "recipe.yaml").write_text("serve: {draft: 9}")
    assert drafted_ahead(tmp_path / "own" / "model", 2) == 2
    with pytest.raises(UserError, match=r"serve\.draft"):
        drafted_ahead(tmp_path / "own" / "model")


@pytest.mark.parametrize("command", COMMANDS)
def test_drafts_are_made_as_told_and_change_no_answer(
    command: str, run: Path, made: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {}
    for options in ([], ["--draft", "0"], ["--draft", "8"]):
        assert exit_of(command, str(run), *COMMANDS[command], *options) == 0
        told[" ".join(options)] = json.loads(capsys.readouterr().out)
    assert [engine.depth for engine in made] == [3, 0, 8]
    assert [engine.counters.drafted_tokens > 0 for engine in made] == [True, False, True]
    assert told[""] == told["--draft 0"] == told["--draft 8"]


def test_a_folder_of_no_run_takes_the_default(
    tmp_path: Path, made: list[Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    for command, arguments in COMMANDS.items():
        assert exit_of(command, str(save(tmp_path / command)), *arguments) == 0
    assert [engine.depth for engine in made] == [1, 1]


def test_every_stage_that_one_talks_to_draws_alike(
    run: Path, made: list[Engine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\n/stage pretrain\n"))
    bits = ["--int8"] * native_network.fits(tiny_model())
    assert exit_of("chat", str(run), "--tokens", "3", "--draft", "2", *bits) == 0
    assert "now talking to pretrain" in capsys.readouterr().err
    assert [engine.depth for engine in made] == [2, 2]
    assert [in_eight_bits(engine) for engine in made] == [bool(bits)] * 2


def in_eight_bits(engine: Engine) -> bool:
    network = engine._network
    return isinstance(network, NativeNetwork) and network.matrices.eight_bits


def test_a_server_is_told_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr("sapience.serving.server.serve", lambda *arguments: served.append(arguments[4:]))
    for options in ([], ["--draft", "0"], ["--draft", "2", "--int8", "--max-running", "5"]):
        assert exit_of("serve", str(run), *options) == 0
    assert served == [(64, None, 3, False), (64, None, 0, False), (5, None, 2, True)]
    for draft in (0, 2):
        engine = load_speaker(run / "finetune" / "model", 4, None, draft).engine
        assert isinstance(engine, Engine) and engine.depth == draft and not in_eight_bits(engine)


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_of_8_bits(command: str, run: Path, made: list[Engine], capsys: pytest.CaptureFixture[str]) -> None:
    if not native_network.fits(tiny_model()):
        pytest.skip("needs a C++ compiler")
    drawn = []
    for options in ([], ["--int8"], ["--int8", "--draft", "0"]):
        assert exit_of(command, str(run), *COMMANDS[command], *options) == 0
        drawn.append(json.loads(capsys.readouterr().out))
    assert [in_eight_bits(engine) for engine in made] == [False, True, True]
    assert drawn[1] == drawn[2]


MISTAKES = {
    "one question": ["chat", "--message", "Who?", "--int8"],
    "a talk": ["chat", "--int8"],
    "a text": ["generate", "Ada ", "--int8"],
    "a server": ["serve", "--port", "0", "--int8"],
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=list(MISTAKES))
def test_where_8_bits_cannot_be_had_nothing_is_drawn(
    arguments: list[str], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native_network, "fits", lambda _: False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who?\n"))
    command, *options = arguments
    assert exit_of(command, str(run), *options) == 2
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    assert "sapience: weights in 8 bits are for float32 models on a CPU" in told.err and "C++ compiler" in told.err


@pytest.mark.parametrize("command", ["chat", "generate", "serve"])
def test_a_recipe_that_cannot_be_followed_is_refused_and_the_option_helps(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wrong"
    (folder / "finetune").mkdir(parents=True)
    (folder / "finetune" / "model").symlink_to(run / "finetune" / "model")
    (folder / "recipe.yaml").write_text("serve: {draft: 9}")
    arguments = COMMANDS.get(command, [])
    assert exit_of(command, str(folder), *arguments) == 2
    told = capsys.readouterr()
    assert told.out == "" and "serve.draft" in told.err
    assert exit_of(command, str(folder), *arguments, "--draft", "9") == 2
    assert "Usage" in capsys.readouterr().err
    if arguments:
        assert exit_of(command, str(folder), *arguments, "--draft", "2") == 0
