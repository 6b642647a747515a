"""Every command of `sapience`: parses, calls, prints. A user's mistake ends in one sentence and exit code 2."""

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sapience import __version__
from sapience.evaluation.sample_choice import Sort
from sapience.recipe import UserError
from sapience.screen import Screen

INTERRUPTED = 130
"""Exit code that typer ends with after Ctrl-C."""

app = typer.Typer(
    name="sapience",
    help="The open, complete DeepSeek-V3 training system: one recipe takes a model from raw text to an assistant.",
    epilog="Begin with: sapience run recipes/demo.yaml. Then: sapience chat demo, sapience samples demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


class Stored(StrEnum):
    """Types that weights are written in."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    def torch(self) -> Any:
        """The torch type; None for what is stored."""
        import torch

        return None if self is Stored.STORED else getattr(torch, self.value)


RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe, such as pretrain.steps=50 seed=1.", show_default=False),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or directory.", show_default=False)]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="RUN (its latest model), RUN@stage, RUN@specialise/DOMAIN or a Hugging Face folder.",
        show_default=False,
    ),
]
ShardSize = Annotated[float, typer.Option(help="Largest file in GB.", min=0.001)]
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
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The beginning that the model continues.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to write.", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.", min=0.0)] = 0.7,
    seed: Annotated[int, typer.Option(help="Same seed, same text.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a text with a model."""
    from sapience.run import resolve_model

    folder = resolve_model(model)
    from sapience.corpus.tokenizer import Tokenizer
    from sapience.inference.generate import generate as draw
    from sapience.model.huggingface import load_model
    from sapience.serving.answering import Settings
    from sapience.serving.printable import json_line, printable

    settings = Settings(temperature, tokens, seed)
    tokenizer, network = Tokenizer.load(folder), load_model(folder)
    stream = tokenizer.stream_decoder()
    if not as_json:
        print(printable(text), end="", flush=True)

    def show(_: int, token: int) -> None:
        if not as_json and token != tokenizer.eos_id:
            print(printable(stream(token)), end="", flush=True)

    prompt = [tokenizer.bos_id, *tokenizer.encode(text)]
    stop = {tokenizer.eos_id}
    [drawn] = draw(
        network, [prompt], settings.tokens, temperature=settings.temperature, stop_ids=stop, seed=settings.seed,
        on_token=show,
    )  # fmt: skip
    if as_json:
        written = tokenizer.decode([token for token in drawn.tokens if token not in stop])
        print(json_line({"prompt": text, "text": written, "finished": drawn.finished}))
    else:
        print()


@app.command(
    epilog="""Examples:

    sapience chat demo

    sapience chat demo@pretrain

    sapience chat demo@specialise/math --system "Think step by step, check, then answer."

    sapience chat demo --message "Which number is the largest: 3, 9?" --temperature 0 --json

    sapience chat demo < questions.txt

    /help lists what can be typed beside questions: /stage NAME goes on with another model of the run, which answers the
    last question again. From a pipe every line is a question, and nothing but answers is printed."""
)
def chat(
    model: ModelName,
    system: Annotated[str, typer.Option(help="A message that stands before the conversation.")] = "",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.", min=0.0)] = 0.7,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.", min=0)] = 0,
    message: Annotated[str | None, typer.Option(help="Ask this, print the answer and end.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model of a run, and hear how its stages differ."""
    from sapience.run import resolve_model

    if as_json and message is None:
        raise UserError("--json prints one answer: say with --message what is to be asked")
    folder = resolve_model(model)
    from sapience.serving.answering import Settings
    from sapience.serving.terminal import ask_once, talk

    settings = Settings(temperature, tokens, seed)
    if message is None:
        talk(folder, system, settings, Screen().say)
    else:
        ask_once(folder, system, message, settings, as_json, Screen().say)


@app.command(
    epilog="""Examples:

    sapience samples demo

    sapience samples demo --stage reinforce --verdict wrong --random --seed 3

    sapience samples demo --stage specialise/math --step 1-5 --group --sort reward --reverse

    sapience samples demo --search "cannot help" --count 50 --json

    Without options: how much of what there is, and a few examples. Verdicts: ok, wrong, format_error, compile_error,
    runtime_error, timeout, memory, output_limit, infra_error; of a preference pair chosen and rejected."""
)
def samples(
    run_name: RunName,
    stage: Annotated[str, typer.Option(help="Only this stage's, such as specialise or specialise/math.")] = "",
    category: Annotated[str, typer.Option(help="Only of this problem family or kind of wish.")] = "",
    verdict: Annotated[str, typer.Option(help="Only with this verdict, such as ok or wrong.")] = "",
    step: Annotated[str, typer.Option(help="Only of training step N, or of steps N-M.")] = "",
    search: Annotated[str, typer.Option(help="Only with these words in the conversation.")] = "",
    count: Annotated[
        int | None, typer.Option(help="How many to show.  [default: 10]", min=1, show_default=False)
    ] = None,
    sort: Annotated[
        Sort | None, typer.Option(help="Highest reward, earliest step or longest answer first.", show_default=False)
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort the other way round.")] = False,
    group: Annotated[bool, typer.Option("--group", help="All answers to one prompt side by side.")] = False,
    random: Annotated[bool, typer.Option("--random", help="Draw at random instead of taking the first.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same random draw.  [default: 0]", min=0, show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read what the models of a run said, and what it was worth."""
    from sapience.evaluation.sample_choice import Choice, group_record, overview
    from sapience.evaluation.sample_reader import SampleReader, Wanted, parse_steps
    from sapience.run import resolve_run
    from sapience.serving.printable import json_line

    if reverse and not sort:
        raise UserError("--reverse turns a sort round: say with --sort reward, step or length what is to be sorted by")
    reader = SampleReader(resolve_run(run_name))
    screen = Screen()
    wanted = Wanted(stage, category, verdict, parse_steps(step) if step else None, search)
    choice = Choice(count or 10, sort, reverse, (seed or 0) if random else None)
    if wanted == Wanted() and count is None and not (sort or group or random or as_json):
        screen.overview(run_name, *overview(reader.samples(), seed or 0))
    elif seed is not None and not random:
        raise UserError("--seed chooses among random draws: give --random with it, or leave it out")
    elif group:
        found, groups = choice.groups(reader.groups(wanted))
        if as_json:
            print(json_line({"found": found, "samples": [group_record(answers) for answers in groups]}))
        else:
            screen.chosen(found, groups, screen.group, "groups")
    else:
        found, chosen = choice.samples(reader.samples(wanted))
        if as_json:
            print(json_line({"found": found, "samples": [sample.record() for sample in chosen]}))
        else:
            screen.chosen(found, chosen, screen.sample, "answers")
    if reader.unreadable:
        screen.say(f"{reader.unreadable} lines could not be read and were passed over")


@app.command(
    epilog="""Examples:

    sapience review demo

    sapience review demo --no-browser --port 0

    sapience review demo --json

    The page opens in a browser; Ctrl-C stops it and loses nothing. Afterwards give the command of the run again: what
    people accepted is trained on. --json says how far people are and how far they agree."""
)
def review(
    run_name: RunName,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes any free one.", min=0, max=65535)] = 8765,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the page's address.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="Database of the queue, where it is not the recipe's, such as postgresql://…", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the answers that wait: accept, edit, reject, compare."""
    from sapience.recipe import load_recipe
    from sapience.run import resolve_run

    folder = resolve_run(run_name)
    section = load_recipe(folder / "recipe.yaml").review
    from sapience.review.progress import progress_record, queue_address
    from sapience.review.server import serve

    if as_json:
        print(json.dumps(progress_record(folder, url or section.url, section.votes)))
    else:
        serve(folder, queue_address(folder, url or section.url), port, not no_browser, section.votes)


@app.command(
    epilog="""Examples:

    sapience export demo model

    sapience export demo@pretrain base --dtype bfloat16

    sapience export ~/model fp8 --fp8 --shard-gb 4

    Loads in transformers, vLLM and SGLang. A run's model gets a model card with its data and their licences. Needs the
    memory of the largest tensor; interrupted, the same command goes on."""
)
def export(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="Where to write; must not exist yet.", show_default=False)],
    form: Annotated[Literal["huggingface"], typer.Option("--format", help="Layout of the files.")] = "huggingface",
    fp8: Annotated[
        bool, typer.Option("--fp8", help="Projections in DeepSeek-V3's FP8 blocks, the rest bfloat16.")
    ] = False,
    dtype: Annotated[Stored, typer.Option(help="Type of the weights; `stored` changes none.")] = Stored.STORED,
    shard_gb: ShardSize = 5.0,
) -> None:
    """Write a model as a folder that others load: safetensors with an index, tokenizer, model card."""
    from sapience.run import resolve_model

    if fp8 and dtype is not Stored.STORED:
        raise UserError("--fp8 decides the types itself: leave --dtype out")
    source = resolve_model(model)
    from sapience.evaluation.model_card import model_card
    from sapience.model.conversion import Conversion, convert_folder

    wanted = Conversion(dtype.torch(), fp8, int(shard_gb * 1e9))
    screen = Screen()
    screen.converted(folder, convert_folder(source, folder, wanted, screen.progress, model_card(source, folder.name)))


@app.command(
    "import",
    epilog="""Examples:

    sapience import ~/DeepSeek-V3 v3

    sapience import ~/Moonlight-16B-A3B moonlight --dtype float32

    Takes the family of DeepSeek-V3: V3, R1, V3.1, V2, V2-Lite, Moonlight, FP8 blocks or not, prediction modules included.
    Training takes the folder from there: sapience run recipes/extend-own-model.yaml extend.model=v3 tokenizer.path=v3""",
)
def import_(
    source: Annotated[Path, typer.Argument(help="A Hugging Face folder.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where to write; must not exist yet.", show_default=False)],
    dtype: Annotated[
        Stored, typer.Option(help="Type of the weights; `stored` keeps it, and makes bfloat16 of FP8 blocks.")
    ] = Stored.STORED,
    shard_gb: ShardSize = 5.0,
) -> None:
    """Check a checkpoint tensor by tensor and write it as training takes it, FP8 blocks multiplied out."""
    from sapience.model.conversion import imported

    screen = Screen()
    screen.converted(folder, imported(source, folder, dtype.torch(), int(shard_gb * 1e9), screen.progress))


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
            print("\nsapience: interrupted; a run goes on from here by the same command", file=sys.stderr)
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
