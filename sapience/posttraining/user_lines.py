"""Files of a user's own records, one JSON object a line: a bad line is put aside with its reason, never fatal, never lost."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sapience.recipe.errors import UserError

T = TypeVar("T")


def read_lines(
    path: Path, parse: Callable[[bytes], T], name: str, check: str, layout: str
) -> tuple[list[T], list[str]]:
    """What `parse` makes of each line that is not blank, and why lines could not be used, each with its number.

    `parse` raises ValueError with the reason why a line is of no use. Raises UserError, in which `name` is what a line is
    called, `check` where its path stands and `layout` how a line should look, for a file that cannot be read and for one
    without a usable line.
    """
    usable: list[T] = []
    bad: list[str] = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    usable.append(parse(line))
                except ValueError as error:
                    bad.append(f"line {number}: {error}")
    except OSError as error:
        raise UserError(f"the {name}s {path} cannot be read ({error.strerror}): check {check}") from None
    if not usable:
        first = bad[0] if bad else "it is empty"
        raise UserError(f"{path} has no usable {name} ({first}): each line has to be {layout}")
    return usable, bad
