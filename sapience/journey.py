"""How a run goes through its stages.

A stage is skipped where its manifest carries the fingerprint that the recipe and its inputs give today; redone, after
saying so, where the manifest carries another; continued where there is none. Bodies are imported when they are run, so
that a refusal of the recipe comes before torch is loaded.
"""

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.planning.failures import explained
from sapience.recipe import Recipe, UserError, dump_recipe
from sapience.run import (
    MANIFEST,
    PENDING,
    Manifest,
    ProgressFactory,
    StageContext,
    empty_folder,
    locked,
    package_versions,
    read_manifest,
    stage_folder,
    write_atomically,
    write_manifest,
)
from sapience.stages import STAGES, Stage, check_inputs, made_inputs, stage_fingerprint


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
    team: Any = None,
) -> None:
    """Make every stage that is not made yet, in order. Raises UserError where something the user can mend is wrong.

    With a team (`sapience.parallel.team.Team`) its leader goes through the stages; the others help with those that are shared.
    """
    stages = select_stages(recipe, first, last)
    if team is not None and not team.leads:
        while (name := team.hear()) is not None:
            _help(next(stage for stage in stages if stage.name == name), recipe, run, progress, team)
        return
    with locked(run):
        write_atomically(run / "recipe.yaml", dump_recipe(recipe))
        for stage in stages:
            _make(stage, recipe, run, progress, say, team)
    if team is not None:
        team.tell(None)


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


def _help(stage: Stage, recipe: Recipe, run: Path, progress: ProgressFactory, team: Any) -> None:
    folder = stage_folder(run, stage.name)
    with explained(stage.name):
        _body(stage)(StageContext(recipe, run, folder, made_inputs(stage, recipe, run), progress, team))


def _body(stage: Stage) -> Callable[[StageContext], dict[str, Any]]:
    module, function = stage.body.split(":")
    body: Callable[[StageContext], dict[str, Any]] = getattr(importlib.import_module(module), function)
    return body


def _make(
    stage: Stage, recipe: Recipe, run: Path, progress: ProgressFactory, say: Callable[[str], None], team: Any = None
) -> None:
    folder = stage_folder(run, stage.name)
    check_inputs(stage, recipe, run)
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
        inputs=made_inputs(stage, recipe, run),
        progress=progress,
        team=team if stage.shared else None,
    )
    body = _body(stage)
    if context.team is not None:
        team.tell(stage.name)
    try:
        with explained(stage.name):
            figures = body(context)
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
