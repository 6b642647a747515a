"""Commands that make a run, or say what one is or would be."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapience.commands.arguments import AsJson, Overrides, RecipeFile, RunName
from sapience.commands.ending import heeded
from sapience.screen import Screen

if TYPE_CHECKING:
    from sapience.recipe import Recipe

app = typer.Typer()
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to make.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last stage to make.")] = None,
    directory: Annotated[Path, typer.Option("--runs", help="Where run directories are kept.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Start even where memory or disk look too small.")] = False,
) -> None:
    """Make a run, or go on with one: finished stages are skipped, an interrupted one continues where it was.

    Started by `torchrun --nproc-per-node N -m sapience run …`, N processes pre-train and extend together, as the recipe's
    `parallel` section says.
    """
    from sapience.journey import select_stages, travel
    from sapience.planning.allocator import keep_memory
    from sapience.planning.machine import examine
    from sapience.planning.mesh import check_mesh
    from sapience.planning.needs import check_before, needs_of
    from sapience.planning.threads import load_or_choose
    from sapience.recipe import load_recipe

    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    screen = Screen(quiet=rank > 0)
    loaded = load_recipe(recipe, overrides or [])
    folder = directory / loaded.name
    stages = [stage.name for stage in select_stages(loaded, first, last)]
    if rank:
        _help_along(loaded, folder, screen, first, last)
        return
    machine = examine(directory)
    check_mesh(loaded, processes, stages)
    wanted = loaded.model_copy(update={"stages": stages})
    gpu, here = bool(machine.gpus) and loaded.pretrain.device != "cpu", int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needs = needs_of(wanted, machine.cores, gpu, processes, here)
    screen.say(needs.sentence())
    if not force:
        check_before(loaded, machine, needs)
    team = None
    if processes > 1:
        from sapience.parallel.team import join

        team = join(loaded.parallel.threads)
        screen.say(f"{processes} processes work together where a stage can be shared.")
    else:
        choice = load_or_choose(folder, machine.cores, loaded.parallel.threads)
        choice.apply()
        screen.say(choice.sentence())
    keep_memory()
    with heeded(screen.progress) as progress:
        travel(loaded, folder, progress, screen.say, first, last, team)
    if team is not None:
        team.leave()
    screen.journey(folder)


def _help_along(recipe: "Recipe", folder: Path, screen: Screen, first: str | None, last: str | None) -> None:
    """What a process does that does not lead: its share, in silence. What is wrong the leader says as well."""
    from sapience.journey import travel
    from sapience.parallel.team import join
    from sapience.recipe import UserError

    team = join(recipe.parallel.threads)
    try:
        with heeded(screen.progress) as progress:
            travel(recipe, folder, progress, screen.say, first, last, team)
    except UserError:
        raise typer.Exit(2) from None
    team.leave()


@app.command()
def status(run_name: RunName, as_json: AsJson = False) -> None:
    """Say which stages of a run are made, and with what figures."""
    from sapience.journey import states
    from sapience.recipe import load_recipe
    from sapience.run import resolve_run

    folder = resolve_run(run_name)
    found = states(load_recipe(folder / "recipe.yaml"), folder)
    if as_json:
        stages = {
            s.name: {
                "state": s.state,
                "seconds": s.manifest.seconds if s.manifest else None,
                "figures": s.manifest.figures if s.manifest else {},
            }
            for s in found
        }
        print(json.dumps({"run": str(folder), "stages": stages}, ensure_ascii=False))
        return
    Screen().states(folder, found)


@app.command()
def report(run_name: RunName) -> None:
    """Write the run's report again from what is on disk, and say where it is."""
    from sapience.journey import forget, travel
    from sapience.recipe import load_recipe
    from sapience.run import resolve_run

    folder = resolve_run(run_name)
    screen = Screen()
    forget(folder, "report")
    travel(load_recipe(folder / "recipe.yaml"), folder, screen.progress, screen.say, "report", "report")
    screen.say(f"{folder / 'report' / 'report.html'}")


@app.command(
    epilog="""Examples:

    sapience plan recipes/v3-671b.yaml

    sapience plan recipes/v3-lite-16b.yaml model.n_routed_experts=128 --json

    sapience plan recipes/v3-lite-16b.yaml --processes 8 parallel.expert=8"""
)
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Devices that share the training as the recipe's parallel section says.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe amounts to: parameters, work and cache per token, memory on a device. Trains nothing."""
    from sapience.planning.plan import plan_recipe
    from sapience.recipe import load_recipe

    made = plan_recipe(load_recipe(recipe, overrides or []), processes)
    if as_json:
        print(json.dumps(made.record(), ensure_ascii=False))
    else:
        Screen().plan(made)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine offers, what is missing and how to get it."""
    from sapience.planning.doctor import doctor_report
    from sapience.planning.machine import examine

    rows = doctor_report(examine(Path.cwd()))
    if as_json:
        print(json.dumps({row.what: {"state": row.state, "remedy": row.remedy} for row in rows}, ensure_ascii=False))
    else:
        Screen().doctor(rows)


@recipe_app.command("show")
def recipe_show(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Print a recipe with every default spelled out and the overrides applied."""
    from sapience.recipe import dump_recipe, load_recipe

    print(dump_recipe(load_recipe(recipe, overrides or [])), end="")


@recipe_app.command("explain")
def recipe_explain(
    field: Annotated[str, typer.Argument(help="A section or field, such as pretrain or pretrain.steps.")] = "",
) -> None:
    """Say what a recipe's fields mean, in which unit, with which default."""
    from sapience.recipe.explain import explain

    Screen().fields(explain(field))
