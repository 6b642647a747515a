"""Checkpoints are whole or passed over; the last few are kept; nothing but the state travels through them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_config, tiny_model

from sapience.training import checkpoint as module
from sapience.training.checkpoint import latest_checkpoint, save_checkpoint


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), float(step)), "b.c": torch.arange(5) + step}


def save(folder: Path, step: int, keep: int = 3) -> None:
    save_checkpoint(folder, step, tensors(step), {"momentum/a": tensors(step)["a"]}, {"tokens": 10 * step}, keep)


def read(folder: Path) -> tuple[int, Any] | None:
    found = latest_checkpoint(folder)
    if found is None:
        return None
    assert all(torch.equal(found.weights[key], value) for key, value in tensors(found.step).items())
    assert torch.equal(found.optimizer["momentum/a"], tensors(found.step)["a"])
    assert found.weights["b.c"].dtype == torch.int64
    return found.step, found.state


def test_the_newest_is_read_back_whole(tmp_path: Path) -> None:
    assert read(tmp_path / "none") is None
    for step in (100, 200, 1000):
        save(tmp_path, step)
    assert read(tmp_path) == (1000, {"tokens": 10000})


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in range(9, 13):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000011", "step-0000012"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, tensors(5), {"momentum/a": tensors(5)["a"]}, {"tokens": 7}, 3)
    assert read(tmp_path) == (5, {"tokens": 7})


def flip_a_byte(name: str) -> Callable[[Path], None]:
    def damage(newest: Path) -> None:
        content = bytearray((newest / name).read_bytes())
        content[-3] ^= 1
        (newest / name).write_bytes(content)

    return damage


def truncated(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def damage(newest: Path) -> None:
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(content[: int(share * len(content))])

    return damage


def write_state(text: str) -> Callable[[Path], None]:
    return lambda newest: (newest / "state.json").write_text(text) and None


def as_while_building(newest: Path) -> None:
    """Killed before the folder got its name."""
    newest.rename(newest.with_name(f".building-{newest.name.removeprefix('step-')}"))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights truncated": truncated("weights.safetensors"),
    "weights empty": truncated("weights.safetensors", 0.0),
    "optimizer truncated": truncated("optimizer.safetensors"),
    "a bit flipped in the weights": flip_a_byte("weights.safetensors"),
    "a bit flipped in the moments": flip_a_byte("optimizer.safetensors"),
    "no state": lambda newest: (newest / "state.json").unlink(),
    "state torn": truncated("state.json"),
    "state of another shape": write_state("[1, 2]"),
    "state without hashes": write_state('{"step": 3, "state": {}}'),
    "weights missing": lambda newest: (newest / "weights.safetensors").unlink(),
    "folder empty": lambda newest: shutil.rmtree(newest) or newest.mkdir(),
    "never finished": as_while_building,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(damage: Callable[[Path], None], tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    damage(tmp_path / "step-0000003")
    assert read(tmp_path) == (2, {"tokens": 20})
    save(tmp_path, 3)
    assert read(tmp_path) == (3, {"tokens": 30})


def test_where_all_are_torn_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        truncated("weights.safetensors")(tmp_path / f"step-000000{step}")
    assert read(tmp_path) is None


def test_torn_ones_do_not_push_out_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where saving fails (disk full), the newest whole checkpoint stays."""
    save(tmp_path, 1, keep=1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_tensors", full)
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                save(tmp_path, step, keep=1)
    assert read(tmp_path) == (1, {"tokens": 10})


def test_a_model_with_a_tied_head_can_be_saved_and_is_tied_again(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(tie_word_embeddings=True))
    save_checkpoint(tmp_path, 1, model.state_dict(), {}, {}, 1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    other = tiny_model(model.config, seed=5)
    other.load_state_dict(found.weights)
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.head.weight, model.head.weight)


def test_state_json_is_plain_json_with_the_hashes_of_both_files(tmp_path: Path) -> None:
    save(tmp_path, 1)
    record = json.loads((tmp_path / "step-0000001" / "state.json").read_text())
    assert set(record["sha256"]) == {"weights.safetensors", "optimizer.safetensors"}
    assert record["state"] == {"tokens": 10}
