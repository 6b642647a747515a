"""A request to end a run is heard, also where Python drops the exception that it raises."""

import os
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from quiet_progress import quiet

from sapience.commands.ending import heeded
from sapience.run import ProgressTask

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_it_ends_what_is_under_way_and_leaves_the_handlers_as_they_were(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt), heeded(quiet) as progress, progress("work", 2):
        os.kill(os.getpid(), number)
        pytest.fail("the work went on")
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_a_callback_swallows_ends_the_work_at_the_next_step(number: signal.Signals) -> None:
    class Thing:
        """Something to be thrown away."""

    thing, heard = Thing(), False
    with pytest.raises(KeyboardInterrupt), heeded(quiet) as progress, progress("work", 2) as bar:
        bar.advance()
        reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
        del thing
        heard = reference() is None
        bar.advance()
        pytest.fail("the work went on")
    assert heard


def test_where_nobody_asks_bars_move_as_they_would() -> None:
    moves: list[tuple[float, dict[str, float | str]]] = []

    class Bar:
        def advance(self, amount: float = 1, **figures: float | str) -> None:
            moves.append((amount, figures))

    @contextmanager
    def recording(description: str, total: int | None) -> Iterator[ProgressTask]:
        assert (description, total) == ("work", 2)
        yield Bar()

    with heeded(recording) as progress, progress("work", 2) as bar:
        bar.advance()
        bar.advance(2, loss=1.0)
    assert moves == [(1, {}), (2, {"loss": 1.0})]
