"""Every command of `sapience`: parses, calls, prints. A user's mistake ends in one sentence and exit code 2."""

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sapience import __version__
from sapience.recipe import UserError
from sapience.screen import Screen

INTERRUPTED = 130
"""Exit code that typer ends with after Ctrl-C."""

app = typer.Typer(
    name="sapience",
    help="The open, complete DeepSeek-V3 training system: one recipe takes a model from raw text to an assistant.",
    epilog="Begin with: sapience run recipes/demo.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe, such as pretrain.steps=50 seed=1.", show_default=False),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to make.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last stage to make.")] = None,
    directory: Annotated[Path, typer.Option("--runs", help="Where run directories are kept.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Start even where memory or disk look too small.")] = False,
) -> None:
    """Make a run, or go on with one: finished stages are skipped, an interrupted one continues where it was."""
    from sapience.journey import travel
    from sapience.planning.machine import examine
    from sapience.planning.needs import check_before, needs_of
    from sapience.planning.threads import load_or_choose
    from sapience.recipe import load_recipe

    screen = Screen()
    loaded = load_recipe(recipe, overrides or [])
    folder = directory / loaded.name
    machine = examine(directory)
    needs = needs_of(loaded, machine.cores)
    screen.say(needs.sentence())
    if not force:
        check_before(loaded, machine, needs)
    choice = load_or_choose(folder, machine.cores, loaded.parallel.threads)
    choice.apply()
    screen.say(choice.sentence())
    travel(loaded, folder, screen.progress, screen.say, first, last)
    screen.journey(folder)


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


@app.command()
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="RUN, RUN@stage or a Hugging Face folder.")],
    text: Annotated[str, typer.Argument(help="The beginning that the model continues.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.", min=0.0)] = 0.7,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a text with a model."""
    from sapience.run import resolve_model

    folder = resolve_model(model)
    from sapience.corpus.tokenizer import Tokenizer
    from sapience.inference.generate import generate as draw
    from sapience.model.huggingface import load_model

    tokenizer, network = Tokenizer.load(folder), load_model(folder)
    stream = tokenizer.stream_decoder()
    if not as_json:
        print(text, end="", flush=True)

    def show(_: int, token: int) -> None:
        if not as_json and token != tokenizer.eos_id:
            print(stream(token), end="", flush=True)

    prompt = [tokenizer.bos_id, *tokenizer.encode(text)]
    stop = {tokenizer.eos_id}
    [drawn] = draw(network, [prompt], tokens, temperature=temperature, stop_ids=stop, seed=seed, on_token=show)
    if as_json:
        written = tokenizer.decode([token for token in drawn.tokens if token not in stop])
        print(json.dumps({"prompt": text, "text": written, "finished": drawn.finished}, ensure_ascii=False))
    else:
        print()


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


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"sapience {__version__}")
        raise typer.Exit


@contextmanager
def _mistakes_in_one_sentence() -> Iterator[None]:
    """Turn what a user can mend into one line on standard error and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"sapience: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("\nsapience: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = error.filename or "the run's folder"
        print(
            f"sapience: no space left to write {where}: free some and give the same command again, it goes on from here",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def main(arguments: list[str] | None = None) -> Any:
    """The entry point of the `sapience` command."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with _mistakes_in_one_sentence():
        return app(arguments)
