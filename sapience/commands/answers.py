"""Commands for people who read and judge what models said."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sapience.commands.arguments import AsJson, RunName
from sapience.evaluation.sample_choice import Sort
from sapience.recipe import UserError
from sapience.screen import Screen

app = typer.Typer()


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

    sapience judge problem.json solution.py

    sapience judge sum.json sum.rs --json

    A problem: {"language": "cpp", "tests": [{"stdin": "1 2\\n", "stdout": "3"}]}, or for a function
    {"language": "python", "entry_point": "add", "tests": [{"args": [1, 2], "returns": 3}]}; with "limits":
    {"cpu_seconds": 2, "memory_mb": 256} where the usual ones do not fit. Languages: python, c, cpp, java, javascript, go,
    rust, bash; `sapience doctor` says which compilers are here.

    Verdicts: ok, wrong, format_error, compile_error, runtime_error, timeout, memory, output_limit, infra_error. The exit code
    is 0 whatever the verdict is."""
)
def judge(
    problem: Annotated[Path, typer.Argument(metavar="PROBLEM.json", help="What is asked.", show_default=False)],
    solution: Annotated[Path, typer.Argument(metavar="SOLUTION", help="Source code.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Run a program against tests in the sandbox, and say what it is worth."""
    from sapience.rewards.single import judge_files

    verdict = judge_files(problem, solution)
    if as_json:
        record = verdict.record()
        print(json.dumps({"verdict": record.pop("kind"), **record}, ensure_ascii=False))
    else:
        detail = f": {verdict.detail}" if verdict.detail else ""
        print(f"{verdict.kind}, {verdict.passed} of {verdict.total} tests passed{detail}")


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
