"""The run directory: one folder per stage, a manifest in each, fingerprints that say whether a stage is still valid.

    runs/NAME/recipe.yaml            the resolved recipe
    runs/NAME/STAGE/manifest.json    written last and atomically: a stage without one is unfinished

A fingerprint covers the part of the recipe a stage depends on, its inputs' fingerprints and an integer version of the
stage's meaning; never package versions or commits, which a manifest records but nobody compares. This module knows no
stage's body and imports no torch.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from sapience.recipe import Recipe, UserError

MANIFEST = "manifest.json"
PENDING = "pending.json"
"""In an unfinished stage's folder: the fingerprint it works towards and the seconds of its earlier sessions."""
RECORDED_PACKAGES = ("sapience", "torch", "numpy", "rustbpe", "tiktoken", "rensa", "reasoning-gym")


class ProgressTask(Protocol):
    """A bar on the screen."""

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """Move on by `amount`; the figures are shown beside the bar."""


ProgressFactory = Callable[[str, int | None], AbstractContextManager[ProgressTask]]
"""Description and number of steps -> a bar."""


@dataclass(frozen=True)
class StageContext:
    """All that a stage body is given."""

    recipe: Recipe
    run: Path
    folder: Path
    """This stage's own folder, the only place it writes."""
    inputs: Mapping[str, Path]
    """Folders of the finished stages it takes."""
    progress: ProgressFactory
    team: Any = None
    """The processes that make the stage together (`sapience.parallel.team.Team`); None for one alone."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    version: int
    fingerprint: str
    inputs: dict[str, str]
    """Fingerprints of the stages it was made from."""
    seconds: float
    """Time of all its sessions together."""
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, flushed to disk, then renamed."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a stage's folder, or None where the stage is unfinished or the file is damaged."""
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = {part.name for part in fields(Manifest)}
        return Manifest(**{key: value for key, value in record.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare a stage finished."""
    write_atomically(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def fingerprint(version: int, parts: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Sha256 (16 hex digits) of a stage's meaning: its version, its part of the recipe, its inputs' fingerprints."""
    record = json.dumps([version, parts, dict(inputs)], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(record.encode("utf-8")).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """Fingerprint of a file that no stage of this run made, by content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_model_folder(folder: Path) -> str:
    """Fingerprint of a model that no stage of this run made: config, tokenizer and weights, by content."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def sign_files(path: Path) -> str:
    """Signature of a user's own file or folder by names, sizes and times of change, as make looks at files.

    Contents are not read: they may be terabytes.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    seen = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()]
    return hashlib.sha256(json.dumps(seen).encode("utf-8")).hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Versions of what shaped the result, for the record."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run directory: a second process that would write to it is refused."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is working in {run}: wait for it, stop it, or choose another name=…"
            ) from None
        yield


def empty_folder(folder: Path) -> None:
    """Throw away what an earlier recipe made in a stage's folder.

    What calls the folder finished or worth going on with goes first, so that a kill leaves no such word beside half the
    files.
    """
    for name in (MANIFEST, PENDING):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def kept_text(path: Path, text: str) -> str:
    """Keep a line for a stage's later sessions; an empty one leaves what is there. Returns what is kept, else nothing."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and text != before:
        write_atomically(path, text)
    return text or before


def stage_folder(run: Path, stage: str) -> Path:
    """Where a stage of a run lives."""
    return run / stage


PREFERRED = ("reinforce", "finetune", "extend", "pretrain")
"""Whose model a run's name alone means: the latest there is."""


def models_of(run: Path) -> list[str]:
    """What can stand behind `RUN@`: the stages that made a model, the latest first, and `specialise/DOMAIN`."""
    made = [stage for stage in (*PREFERRED, "reward") if (run / stage / "model" / "config.json").is_file()]
    experts = sorted((run / "specialise").glob("*/model/config.json"))
    return made + [f"specialise/{config.parent.parent.name}" for config in experts]


def resolve_model(text: str) -> Path:
    """The Hugging Face folder that `RUN`, `RUN@stage`, `RUN@specialise/DOMAIN` or a path names; a run alone means its
    latest model.

    Raises UserError where there is none, naming what there is.
    """
    name, _, stage = text.partition("@")
    path = Path(text).expanduser()
    if (path / "config.json").is_file():
        return path
    for run in (Path(name).expanduser(), Path("runs") / name):
        if not (run / "recipe.yaml").is_file():
            continue
        made = models_of(run)
        latest = [found for found in made if found in PREFERRED]
        if stage in made or (not stage and latest):
            return run / (stage or latest[0]) / "model"
        have = f"it has models of: {', '.join(reversed(made))}" if made else "no stage of it has made a model yet"
        raise UserError(f"{run} has no model of stage {stage!r}: {have}" if stage else f"{run}: {have}")
    raise UserError(f"{text} is neither a run nor a Hugging Face folder (no recipe.yaml, no config.json there)")


def resolve_run(text: str) -> Path:
    """The run directory that a name or a path means. Raises UserError where there is none."""
    for run in (Path(text).expanduser(), Path("runs") / text):
        if (run / "recipe.yaml").is_file():
            return run
    known = sorted(p.parent.name for p in Path("runs").glob("*/recipe.yaml"))
    raise UserError(f"no run {text}: " + (f"there are {', '.join(known)}" if known else "runs/ is empty here"))
