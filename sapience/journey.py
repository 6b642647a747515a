"""The stages in their order: what each takes, what its fingerprint covers, and how a run goes through them.

A stage is skipped where its manifest carries the fingerprint that the recipe and its inputs give today; redone, after
saying so, where the manifest carries another; continued where there is none. Bodies are imported when they are run, so
that a refusal of the recipe comes before torch is loaded.
"""

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.recipe import Recipe, UserError, dump_recipe
from sapience.run import (
    MANIFEST,
    Manifest,
    ProgressFactory,
    StageContext,
    empty_folder,
    fingerprint,
    hash_file,
    hash_model_folder,
    locked,
    package_versions,
    read_manifest,
    resolve_model,
    sign_files,
    stage_folder,
    write_atomically,
    write_manifest,
)

PENDING = "pending.json"
"""In an unfinished stage's folder: the fingerprint it works towards and the seconds of its earlier sessions."""


@dataclass(frozen=True)
class Stage:
    """A stage's place in the journey."""

    name: str
    takes: tuple[str, ...]
    """Stages whose folders it reads, where they are part of the journey."""
    needs: tuple[str, ...]
    """Those of them it cannot do without, unless the recipe gives it a model of the user's own."""
    sections: tuple[str, ...]
    """Parts of the recipe that its result depends on, beside the seed."""
    body: str
    """module:function."""
    version: int = 1
    """Raised when the stage comes to mean something else."""


STAGES = (
    Stage("corpus", (), (), ("corpus",), "sapience.corpus.stage:run_corpus"),
    Stage("tokenizer", ("corpus",), ("corpus",), ("tokenizer",), "sapience.corpus.tokenizer_stage:run_tokenizer"),
    Stage(
        "pretrain",
        ("corpus", "tokenizer"),
        ("corpus", "tokenizer"),
        ("model", "pretrain", "corpus.weights"),
        "sapience.pretraining.pretrain:run",
    ),
    Stage(
        "extend",
        ("corpus", "tokenizer", "pretrain"),
        ("corpus", "tokenizer", "pretrain"),
        ("extend", "pretrain.mixture", "pretrain.length"),
        "sapience.pretraining.extend:run",
    ),
    Stage(
        "evaluate",
        ("corpus", "tokenizer", "pretrain", "extend"),
        (),
        ("evaluate", "pretrain.length", "rewards", "specialise.experts"),
        "sapience.evaluation.stage:run_evaluate",
        version=2,
    ),
    Stage(
        "report",
        ("corpus", "tokenizer", "pretrain", "extend", "evaluate"),
        (),
        ("report",),
        "sapience.evaluation.report:run_report",
    ),
)
SPEED_ONLY = {
    "pretrain": ("device", "log_every", "checkpoint_every", "keep_checkpoints"),
    "extend": ("device", "log_every", "checkpoint_every", "keep_checkpoints"),
    "evaluate": ("device", "batch_tokens"),
    "rewards": ("workers",),
}
"""Fields that change how a stage runs, not what it makes; they are no part of its fingerprint."""


@dataclass(frozen=True)
class StageState:
    """What `sapience status` says of a stage."""

    name: str
    state: str
    """finished, unfinished, outdated or waiting."""
    manifest: Manifest | None


def select_stages(recipe: Recipe, first: str | None, last: str | None) -> list[Stage]:
    """The recipe's stages from `first` to `last`. Raises UserError for a stage that is not among them."""
    chosen = [stage for stage in STAGES if stage.name in recipe.stages]
    names = [stage.name for stage in chosen]
    for name in (first, last):
        if name is not None and name not in names:
            raise UserError(f"{name!r} is no stage of this recipe: choose from {', '.join(names)}")
    low = names.index(first) if first else 0
    high = names.index(last) + 1 if last else len(names)
    if low >= high:
        raise UserError(f"--from {first} comes after --to {last}: the order is {', '.join(names)}")
    return chosen[low:high]


def travel(
    recipe: Recipe,
    run: Path,
    progress: ProgressFactory,
    say: Callable[[str], None],
    first: str | None = None,
    last: str | None = None,
) -> None:
    """Make every stage that is not made yet, in order. Raises UserError where something the user can mend is wrong."""
    stages = select_stages(recipe, first, last)
    with locked(run):
        write_atomically(run / "recipe.yaml", dump_recipe(recipe))
        for stage in stages:
            _make(stage, recipe, run, progress, say)


def forget(run: Path, stage: str) -> None:
    """Let a finished stage be made again the next time."""
    with locked(run):
        (stage_folder(run, stage) / MANIFEST).unlink(missing_ok=True)


def states(recipe: Recipe, run: Path) -> list[StageState]:
    """Every stage of the recipe as it stands on disk."""
    result = []
    for stage in (s for s in STAGES if s.name in recipe.stages):
        folder = stage_folder(run, stage.name)
        manifest = read_manifest(folder)
        if manifest is None:
            state = "unfinished" if (folder / PENDING).is_file() else "waiting"
        else:
            wanted, _ = stage_fingerprint(stage, recipe, run)
            state = "finished" if manifest.fingerprint == wanted else "outdated"
        result.append(StageState(stage.name, state, manifest))
    return result


def stage_fingerprint(stage: Stage, recipe: Recipe, run: Path) -> tuple[str, dict[str, str]]:
    """The fingerprint that the stage's manifest must carry today, and its inputs'. Raises UserError for a missing input."""
    inputs: dict[str, str] = {}
    for name in _takes(stage, recipe):
        manifest = read_manifest(stage_folder(run, name))
        if manifest is not None:
            inputs[name] = manifest.fingerprint
        elif name in stage.needs:
            inputs[name] = "missing"
    section = getattr(recipe, stage.name, None)
    own_model = getattr(section, "model", None)
    if own_model is not None:
        inputs["model"] = hash_model_folder(resolve_model(own_model))
    if stage.name == "tokenizer" and recipe.tokenizer.path is not None:
        inputs["tokenizer.json"] = _hash_tokenizer(Path(recipe.tokenizer.path))
    for name, path in sorted(getattr(section, "models", {}).items()):
        inputs[f"model {name}"] = hash_model_folder(resolve_model(path))
    if stage.name == "corpus":
        for source in recipe.corpus.sources:
            if source.type == "files":
                inputs[f"files {source.name}"] = sign_files(Path(source.path).expanduser())
    parts = {name: _part(recipe, name) for name in stage.sections}
    return fingerprint(stage.version, parts | {"seed": recipe.seed}, inputs), inputs


def _hash_tokenizer(path: Path) -> str:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no tokenizer.json at {file}: correct tokenizer.path, or leave it out to train one")
    return hash_file(file)


def _takes(stage: Stage, recipe: Recipe) -> tuple[str, ...]:
    """Inputs of a stage; with a model of the user's own the stage that would have made one is left out."""
    if stage.name == "extend" and recipe.extend.model is not None:
        return tuple(name for name in stage.takes if name != "pretrain")
    return stage.takes


def _part(recipe: Recipe, dotted: str) -> Any:
    node: Any = recipe
    for name in dotted.split("."):
        node = getattr(node, name)
    if callable(node):
        node = node()
    if hasattr(node, "model_dump"):
        node = node.model_dump(mode="json")
        for field in SPEED_ONLY.get(dotted, ()):
            node.pop(field, None)
    return node


def _make(stage: Stage, recipe: Recipe, run: Path, progress: ProgressFactory, say: Callable[[str], None]) -> None:
    folder = stage_folder(run, stage.name)
    missing = [n for n in _takes(stage, recipe) if n in stage.needs and read_manifest(stage_folder(run, n)) is None]
    if missing:
        raise UserError(
            f"stage {stage.name} needs {', '.join(missing)}, which this run has not made: "
            f"add them to the recipe's stages or run with --from {missing[0]}"
        )
    wanted, inputs = stage_fingerprint(stage, recipe, run)
    manifest = read_manifest(folder)
    if manifest is not None and manifest.fingerprint == wanted:
        say(f"{stage.name}: already made ({manifest.seconds:.0f} s)")
        return
    spent = _begin(stage, folder, wanted, manifest, say)
    began = time.monotonic()
    context = StageContext(
        recipe=recipe,
        run=run,
        folder=folder,
        inputs={
            n: stage_folder(run, n) for n in _takes(stage, recipe) if read_manifest(stage_folder(run, n)) is not None
        },
        progress=progress,
    )
    module, function = stage.body.split(":")
    try:
        figures = getattr(importlib.import_module(module), function)(context)
    finally:
        seconds = spent + time.monotonic() - began
        if folder.is_dir():
            _write_pending(folder, wanted, seconds)
    write_manifest(
        folder,
        Manifest(
            stage=stage.name,
            version=stage.version,
            fingerprint=wanted,
            inputs=inputs,
            seconds=round(seconds, 2),
            figures=figures,
            packages=package_versions(),
        ),
    )
    (folder / PENDING).unlink(missing_ok=True)
    say(f"{stage.name}: made in {seconds:.0f} s")


def _begin(stage: Stage, folder: Path, wanted: str, manifest: Manifest | None, say: Callable[[str], None]) -> float:
    """Prepare the folder: go on in it or start afresh. Returns the seconds that earlier sessions spent."""
    if manifest is not None:
        say(f"{stage.name}: its recipe or inputs have changed since it was made; making it again")
        empty_folder(folder)
        _write_pending(folder, wanted, 0.0)
        return 0.0
    try:
        pending = json.loads((folder / PENDING).read_text(encoding="utf-8"))
        if pending["fingerprint"] == wanted:
            say(f"{stage.name}: going on where it was interrupted")
            return float(pending["seconds"])
        say(f"{stage.name}: its recipe or inputs have changed since it was interrupted; starting it again")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    empty_folder(folder)
    _write_pending(folder, wanted, 0.0)
    return 0.0


def _write_pending(folder: Path, wanted: str, seconds: float) -> None:
    write_atomically(folder / PENDING, json.dumps({"fingerprint": wanted, "seconds": seconds}))


def stage_names(stages: Sequence[Stage] = STAGES) -> list[str]:
    """Names in the journey's order."""
    return [stage.name for stage in stages]
