"""What the terminal shows: progress bars with the time left, tables, one-line notices. Everything goes to standard error
but what a command was asked to print."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

from sapience.run import ProgressTask


class Screen:
    """A terminal, or a log file that one is redirected to."""

    def __init__(self) -> None:
        self.notices = Console(stderr=True, highlight=False)
        self.output = Console(highlight=False)

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
        self.output.print(
            f'Next:   sapience generate {folder} "The "\n'
            f"        sapience status {folder}\n"
            "        sapience recipe explain        (what can be changed)",
            soft_wrap=True,
        )

    def states(self, folder: Path, states: Sequence[Any]) -> None:
        """`sapience status` for people."""
        table = Table("stage", "state", "seconds", "figures", title=str(folder), title_justify="left")
        for state in states:
            manifest = state.manifest
            figures = _plain_figures(manifest.figures) if manifest else ""
            table.add_row(state.name, state.state, f"{manifest.seconds:.0f}" if manifest else "", figures)
        self.output.print(table)

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
