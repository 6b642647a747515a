"""`sapience export` and `sapience import` from the command line, as a newcomer gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_config, tiny_model

from sapience.corpus.tokenizer import Tokenizer, train_tokenizer
from sapience.model.huggingface import load_model, save_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A run with a base model, under runs/tiny."""
    tokenizer = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
    folder = tmp_path / "runs" / "tiny" / "pretrain" / "model"
    save_model(tiny_model(tiny_config(vocab_size=288, max_position_embeddings=64)), folder, 0, 1, 2)
    tokenizer.save(folder)
    (tmp_path / "runs" / "tiny" / "recipe.yaml").write_text("name: tiny\n")
    return tmp_path


def sapience(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sapience", *arguments]
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120)


def test_out_to_fp8_and_back_in_and_on(here: Path) -> None:
    out = sapience(here, "export", "tiny", "shown", "--fp8", "--shard-gb", "0.001")
    assert out.returncode == 0 and out.stdout == "", out.stderr
    names = {path.name for path in (here / "shown").iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert (here / "shown" / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")
    assert Tokenizer.load(here / "shown").encode("Ada") == Tokenizer.load(here / "runs/tiny/pretrain/model").encode(
        "Ada"
    )
    back = sapience(here, "import", "shown", "taken", "--dtype", "float32")
    assert back.returncode == 0, back.stderr
    assert "tensors in 1 files" in back.stderr and "sapience generate taken" in back.stderr
    assert json.loads((here / "taken" / "config.json").read_text())["torch_dtype"] == "float32"
    ours, taken = load_model(here / "shown"), load_model(here / "taken")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), taken.parameters(), strict=True))
    said = sapience(here, "generate", "taken", "Ada ", "--tokens", "4", "--json")
    assert said.returncode == 0 and json.loads(said.stdout)["prompt"] == "Ada "


def test_a_type_of_ones_own_and_the_stored_one(here: Path) -> None:
    for options, dtype in ((["--dtype", "bfloat16"], torch.bfloat16), ([], torch.float32)):
        target = f"new-{len(options)}"
        assert sapience(here, "export", "tiny@pretrain", target, *options, "--format", "huggingface").returncode == 0
        tensors = load_file(here / target / "model.safetensors")
        assert tensors["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32
        assert tensors["model.norm.weight"].dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nobody", "new"], "neither a run nor a Hugging Face folder"),
        (["export", "tiny", "runs"], "there already"),
        (["export", "tiny", "new", "--fp8", "--dtype", "float32"], "leave --dtype out"),
        (["import", "nowhere", "new"], "no readable config.json"),
    ],
)
def test_mistakes_are_said_in_one_sentence(here: Path, arguments: list[str], words: str) -> None:
    done = sapience(here, *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert "Traceback" not in done.stderr and not (here / "new").exists()
