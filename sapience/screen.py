"""What the terminal shows: progress bars with the time left, tables, one-line notices. Everything goes to standard error
but what a command was asked to print."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from sapience.evaluation.sample_choice import StageOverview
from sapience.evaluation.sample_layouts import ReadSample
from sapience.evaluation.sample_reader import sample_files
from sapience.evaluation.wording import amount, size
from sapience.planning.plan import Plan
from sapience.recipe import load_recipe
from sapience.run import ProgressTask
from sapience.serving.printable import printable

Item = TypeVar("Item")


class Screen:
    """A terminal, or a log file that one is redirected to."""

    def __init__(self, quiet: bool = False) -> None:
        self.notices = Console(stderr=True, highlight=False, quiet=quiet)
        self.output = Console(highlight=False, quiet=quiet)

    def say(self, text: str) -> None:
        """One line for the person at the keyboard."""
        self.notices.print(text, markup=False)

    @contextmanager
    def progress(self, description: str, total: int | None) -> Iterator[ProgressTask]:
        """A bar; the figures last given to `advance` stand beside it."""
        bar = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[figures]}"),
            console=self.notices,
            refresh_per_second=4,
        )
        with bar:
            yield _Bar(bar, bar.add_task(description, total=total, figures=""))

    def journey(self, folder: Path) -> None:
        """The table of what each stage changed, where the report is, and what to type next."""
        from sapience.evaluation.journey_table import journey_table

        table = Table(
            "stage", "made", "seconds", "figures", title=f"What each stage of {folder} changed", title_justify="left"
        )
        for row in journey_table(folder):
            table.add_row(row.stage, row.made, f"{row.seconds:.0f}", row.figures)
        self.output.print(table)
        page = folder / "report" / "report.html"
        if page.is_file():
            self.output.print(f"Report: {page.resolve()}  (opens in any browser, offline)", soft_wrap=True)
        for number, (command, meaning) in enumerate(_next_commands(folder)):
            self.output.print(f"{'' if number else 'Next:':<8}{command:<30} ({meaning})", soft_wrap=True, markup=False)

    def overview(self, run: str, stages: Sequence[StageOverview], examples: Sequence[ReadSample]) -> None:
        """`sapience samples RUN`: how much of what there is, an example of each stage, what can be asked."""
        table = Table(
            "stage", "answers", "right", "reward, first → last tenth", "categories",
            title=_cell(f"What the models of {run} said"), title_justify="left",
        )  # fmt: skip
        for stage in stages:
            first, last = stage.reward_of_tenth(last=False), stage.reward_of_tenth(last=True)
            most = sorted(stage.categories.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{name or '–'} {number}" for name, number in most[:_CATEGORIES])
            table.add_row(
                _cell(stage.stage),
                str(stage.answers),
                "" if stage.right_share is None else f"{100 * stage.right_share:.0f} %",
                "" if first is None or last is None else f"{first:.2f} → {last:.2f}",
                _cell(shown + (f" and {len(most) - _CATEGORIES} more" if len(most) > _CATEGORIES else "")),
            )
        self.output.print(table)
        for sample in examples:
            self.sample(sample, longest=_SHORT)
        self.output.print()
        drawn = [stage.stage for stage in stages if stage.rewards]
        asked = [f"--stage {stages[-1].stage} --verdict wrong --random"] if stages else []
        asked += [f"--stage {stage} --step 1-10 --group --sort reward" for stage in drawn[-1:]]
        for number, options in enumerate([*asked, "--search WORDS --count 20"]):
            lead = "" if number else "Look closer:"
            self.output.print(f"{lead:<13}sapience samples {run} {options}", soft_wrap=True, markup=False)
        self.output.print(f"{'':<13}sapience samples --help", soft_wrap=True, markup=False)

    def chosen(self, found: int, items: Sequence[Item], show: Callable[[Item], None], what: str) -> None:
        """Some of what was found, and how many there are."""
        for item in items:
            show(item)
        if found == 0:
            self.say(f"no {what} are like that: give fewer options, or none to see what there is")
        else:
            more = "; --count shows more" if found > len(items) else ""
            self.say(f"\n{len(items)} of {found} {what}{more}")

    def sample(self, sample: ReadSample, longest: int | None = None) -> None:
        """One answer with what came before it and what is known of it; texts clipped to `longest` characters."""
        self.output.print()
        self.output.rule(_cell(_known(sample)), align="left", characters="─")
        for role, content in sample.messages:
            self._turn(role, content if longest is None else _clipped(content, longest, end=True))
        self._turn("answer", sample.answer if longest is None else _clipped(sample.answer, longest))
        for name, value in (("expected", sample.expected), ("note", sample.note), ("by", sample.written_by)):
            if value:
                self._turn(name, value)

    def group(self, group: Sequence[ReadSample]) -> None:
        """All answers to one prompt side by side, the best first."""
        first = group[0]
        self.output.print()
        self.output.rule(_cell(_known(first, of_group=True)), align="left", characters="─")
        for role, content in first.messages:
            self._turn(role, content)
        if first.expected:
            self._turn("expected", first.expected)
        table = Table("reward", "advantage", "verdict", "tokens", "answer", show_lines=True)
        for sample in sorted(group, key=lambda one: -math.inf if one.reward is None else one.reward, reverse=True):
            table.add_row(
                _figure(sample.reward), _figure(sample.advantage), _cell(sample.verdict),
                "" if sample.tokens is None else str(sample.tokens), _cell(sample.answer),
            )  # fmt: skip
        self.output.print(table)

    def _turn(self, name: str, content: str) -> None:
        self.output.print(f"{printable(name)}: {printable(content)}", markup=False, soft_wrap=True)

    def states(self, folder: Path, states: Sequence[Any]) -> None:
        """`sapience status` for people."""
        table = Table("stage", "state", "seconds", "figures", title=str(folder), title_justify="left")
        for state in states:
            manifest = state.manifest
            figures = _plain_figures(manifest.figures) if manifest else ""
            table.add_row(state.name, state.state, f"{manifest.seconds:.0f}" if manifest else "", figures)
        self.output.print(table)

    def plan(self, plan: Plan) -> None:
        """`sapience plan` for people."""
        record = plan.record()
        parameters, work = record["parameters"], record["flops_per_token"]
        parts = Table("part", "main model", "prediction modules", title=f"Parameters of {record['recipe']}")
        for name in dict.fromkeys([*parameters["main_parts"], *parameters["mtp_parts"]]):
            shown = [f"{parameters[kind].get(name, 0):,}" for kind in ("main_parts", "mtp_parts")]
            parts.add_row(name.replace("_", " "), *shown)
        parts.add_section()
        parts.add_row("all", f"{parameters['main']:,}", f"{parameters['mtp']:,}")
        parts.add_row("active for a token", f"{parameters['active']:,}", f"{parameters['mtp_active']:,}")
        parts.add_row("the same, embedding not counted", f"{parameters['active_without_embedding']:,}", "")
        self.output.print(parts)
        each = Table(f"for every token (context of {work['length']:,})", "")
        each.add_row("forward, main model", f"{work['forward_main'] / 1e9:,.4g} GFLOP")
        each.add_row("forward, prediction modules", f"{work['forward_mtp'] / 1e9:,.4g} GFLOP")
        each.add_row("training, forward and backward", f"{work['training'] / 1e9:,.4g} GFLOP")
        each.add_row("cache of latents and rotary keys (bfloat16)", f"{record['kv_cache_bytes_per_token']:,} bytes")
        self.output.print(each)
        if plan.stages:
            alone = "its memory if one device did it alone"
            title = alone if plan.processes == 1 else f"the memory of the fullest of {plan.processes:,} devices"
            title = f"Training, and {title} (float32 where the recipe names no precision)"
            stages = Table("", *(stage.name for stage in plan.stages), title=title)
            stages.add_row("steps", *(f"{stage.steps:,}" for stage in plan.stages))
            stages.add_row("tokens", *(amount(stage.tokens) for stage in plan.stages))
            stages.add_row("tokens in a row", *(f"{stage.length:,}" for stage in plan.stages))
            stages.add_row("tokens in a micro-batch", *(f"{stage.micro_batch_tokens:,}" for stage in plan.stages))
            stages.add_row("floating-point operations", *(f"{stage.operations:.3g}" for stage in plan.stages))
            stages.add_section()
            called = {"total": "in all", "copies": "weights in bfloat16"}
            for name in plan.stages[0].memory:
                if any(stage.memory[name] for stage in plan.stages):
                    stages.add_row(called.get(name, name), *(size(stage.memory[name]) for stage in plan.stages))
            self.output.print(stages)

    def converted(self, folder: Path, done: Any) -> None:
        """What was written, what was left out, and what to type next."""
        for note in done.notes:
            self.say(note)
        self.say(f"{folder}: {done.tensors:,} tensors in {done.files} files, {size(done.bytes)}")
        self.say(f'Next: sapience generate {quote(str(folder))} "The "')

    def doctor(self, rows: Sequence[Any]) -> None:
        """`sapience doctor` for people."""
        table = Table("what", "state", "what to do")
        for row in rows:
            table.add_row(row.what, row.state, row.remedy)
        self.output.print(table)

    def fields(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """`sapience recipe explain`."""
        table = Table(Column("field", overflow="fold"), "type", "default", "meaning")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        self.output.print(table)


_CATEGORIES = 6
_SHORT = 300


def _next_commands(folder: Path) -> list[tuple[str, str]]:
    """What one would type after a run, by what it has made."""
    commands = []
    if any((folder / stage / "model" / "config.json").is_file() for stage in ("finetune", "reinforce")):
        commands.append((f"sapience chat {folder}", "talk to the assistant; /stage shows what each stage changed"))
        commands.append((f"sapience serve {folder}", "the chat page at http://127.0.0.1:8000/, and OpenAI's API"))
    else:
        commands.append((f'sapience generate {folder} "The "', "continue a text"))
    if sample_files(folder):
        commands.append((f"sapience samples {folder}", "what its models said, and what it was worth"))
    if waiting := _waiting(folder):
        commands.append((f"sapience review {folder}", f"{waiting} answers wait for people"))
    commands.append((f"sapience status {folder}", "stages and figures"))
    commands.append(("sapience recipe explain", "what can be changed"))
    return commands


def _waiting(folder: Path) -> int:
    """How much waits for people in the run's queue. A run without one does not load a database's code."""
    section = load_recipe(folder / "recipe.yaml").review if (folder / "recipe.yaml").is_file() else None
    if section is None or (section.url is None and not (folder / "review.sqlite").is_file()):
        return 0
    from sapience.review.progress import waiting

    return waiting(folder, section.url, section.votes)


def _known(sample: ReadSample, of_group: bool = False) -> str:
    """A sample's stage, place and worth in one line."""
    step = "" if sample.step is None else f", step {sample.step}"
    parts = [sample.stage + step, sample.phase if sample.phase not in sample.stage else "", sample.category]
    if not of_group:
        sources = ", ".join(f"{name} {_figure(value)}" for name, value in sample.sources.items())
        parts += [
            sample.verdict,
            "" if sample.reward is None else f"reward {_figure(sample.reward)}" + (f" ({sources})" if sources else ""),
            "" if sample.advantage is None else f"advantage {_figure(sample.advantage)}",
            "" if sample.tokens is None else f"{sample.tokens} tokens",
            "cut off" if sample.finished is False else "",
        ]
    return " · ".join(part for part in parts if part)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _cell(text: str) -> Text:
    """Text of a run as it is: no markup, no escape sequences."""
    return Text(printable(text))


def _clipped(text: str, longest: int, end: bool = False) -> str:
    """The beginning of a long text, or its end."""
    if len(text) <= longest:
        return text
    return f"… {text[-longest:]}" if end else f"{text[:longest]} …"


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """Move on; numbers are shown with four significant digits."""
        text = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
        if text:
            self._progress.update(self._task, advance=amount, figures=text)
        else:
            self._progress.advance(self._task, amount)


def _plain_figures(figures: dict[str, Any]) -> str:
    """The scalar figures of a manifest in one cell."""
    return ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items() if isinstance(v, int | float)
    )
