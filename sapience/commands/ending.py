"""Ctrl-C and SIGTERM while a run is made: no request to end is lost.

Either raises KeyboardInterrupt wherever the program happens to be. Where that is a callback of a weak reference or a
finalizer, Python prints the exception and goes on; so the request is remembered, and the next bar that moves raises it again.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from sapience.run import ProgressFactory, ProgressTask


@contextmanager
def heeded(progress: ProgressFactory) -> Iterator[ProgressFactory]:
    """Bars that end the work, in its main thread, once the user has asked for it."""
    asked = False

    def end(*_: object) -> NoReturn:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    @contextmanager
    def heeding(description: str, total: int | None) -> Iterator[ProgressTask]:
        with progress(description, total) as bar:
            yield _Bar(bar, lambda: asked)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heeding
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Bar:
    def __init__(self, bar: ProgressTask, is_asked: Callable[[], bool]) -> None:
        self._bar, self._is_asked = bar, is_asked

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """See ProgressTask. Raises KeyboardInterrupt where the end was asked for."""
        if self._is_asked():
            raise KeyboardInterrupt
        self._bar.advance(amount, **figures)
