"""The folders of checkpoints, whatever is in them: complete or absent, verified when read, the last few kept.

    checkpoints/step-0000200/…, state.json

`state.json` is written last and holds the sha256 of every other file; the folder is built under another name and renamed. A
checkpoint that is torn (killed while writing, disk full, bits flipped) is passed over and the one before it is used.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sapience.run import write_atomically

INDEX_OF_PARTS = ".metadata"
"""The file that says which tensors several ranks have written, and where."""


def has_parts(candidate: Path) -> bool:
    """Whether several ranks have written the checkpoint, each a part."""
    return (candidate / INDEX_OF_PARTS).is_file()


def begin_checkpoint(folder: Path, step: int) -> Path:
    """An empty folder to write the files of a checkpoint into."""
    building = building_folder(folder, step)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def building_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is built."""
    return folder / f".building-{step:07d}"


def finish_checkpoint(folder: Path, step: int, state: Mapping[str, Any], sums: Mapping[str, str], keep: int) -> None:
    """All files are written and these are their sha256: from now on it counts, and all but the newest `keep` are dropped."""
    building, final = building_folder(folder, step), folder / f"step-{step:07d}"
    write_atomically(building / "state.json", json.dumps({"step": step, "state": dict(state), "sha256": dict(sums)}))
    shutil.rmtree(final, ignore_errors=True)
    building.replace(final)
    for old in checkpoint_folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Of all checkpoints, the oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def checkpoint_record(candidate: Path) -> dict[str, Any] | None:
    """What `state.json` says; None where it cannot be read."""
    try:
        record = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
        whole = isinstance(record["step"], int) and isinstance(record["state"], dict) and record["sha256"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole else None


def files_agree(candidate: Path, sums: Iterable[tuple[str, str]]) -> bool:
    """Whether these files of a checkpoint have the sha256 that they are said to have."""
    try:
        return all(sha256(candidate / name) == said for name, said in sums)
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
