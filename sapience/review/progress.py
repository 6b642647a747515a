"""How far the review of a run is: where its queue lies, what waits in it, how far people agree."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sapience.recipe import UserError
from sapience.review.queue import ReviewQueue, queue_url


def queue_address(run: Path, url: str | None) -> str:
    """The database address of a run's queue. Raises UserError where there is no queue yet, rather than making an empty
    one; what a database server holds is not asked."""
    address = queue_url(run) if url is None else url
    if not ReviewQueue.exists(address):
        where = run if url is None else address
        raise UserError(
            f"{where} has no review queue yet: the stage review puts answers into one, and reward pairs of them; "
            "run the recipe up to there, or give a queue's address with --url"
        )
    return address


def progress_record(run: Path, url: str | None, votes: int) -> dict[str, Any]:
    """Counts and agreement as one JSON-able object. Raises UserError where there is no queue."""
    with _opened(queue_address(run, url), votes) as queue:
        agreement = queue.agreement()
        return {
            **asdict(queue.counts()),
            "agreement": {"decisions": asdict(agreement.decisions), "choices": asdict(agreement.choices)},
        }


def waiting(run: Path, url: str | None, votes: int) -> int:
    """How many answers and pairs wait for people; 0 where there is no queue that can be opened."""
    try:
        with _opened(queue_address(run, url), votes) as queue:
            return queue.counts().waiting
    except UserError:
        return 0


@contextmanager
def _opened(address: str, votes: int) -> Iterator[ReviewQueue]:
    queue = ReviewQueue.open(address, votes)
    try:
        yield queue
    finally:
        queue.close()
