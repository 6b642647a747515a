"""The command `sapience`: its subcommands, and what becomes of mistakes. A user's ends in one sentence and exit code 2."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sapience import __version__
from sapience.commands import answers, bench, models, runs, serve
from sapience.planning.failures import explained
from sapience.recipe import UserError

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
for part in (runs, models, serve, answers, bench):
    app.add_typer(part.app)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"sapience {__version__}")
        raise typer.Exit


@contextmanager
def _mistakes_in_one_sentence() -> Iterator[None]:
    """Turn what a user can mend into one line on standard error and exit code 2."""
    try:
        with explained():
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
