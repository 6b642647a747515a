"""Progress bars that show nothing, for stages that are called without a screen."""

from collections.abc import Iterator
from contextlib import contextmanager

from sapience.run import ProgressTask


class _Bar:
    def advance(self, amount: float = 1, **figures: float | str) -> None:
        return None


@contextmanager
def quiet(_: str, __: int | None) -> Iterator[ProgressTask]:
    """A `ProgressFactory`."""
    yield _Bar()
