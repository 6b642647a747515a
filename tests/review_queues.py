"""Review queues, drafts, comparisons and a clock for tests of the review queue.

SQLite always; PostgreSQL too where SAPIENCE_TEST_POSTGRES names a database that may be emptied.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sapience.review import queue as queue_module
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Draft

POSTGRES = os.environ.get("SAPIENCE_TEST_POSTGRES")
NAMES = ("ada", "bo", "陈")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def draft(number: int) -> Draft:
    return Draft.of((("user", f"问题 {number}"),), f"answer {number}", "en", "advice", "drafted by a model")


def pair(number: int) -> Comparison:
    return Comparison.of((("user", f"question {number}"),), f"one {number}", f"two {number}", "en", "advice", "made")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return queue_url(tmp_path)
    address = str(POSTGRES)
    queue = ReviewQueue.open(address)
    queue_module.Table.metadata.drop_all(queue._engine)
    queue.close()
    return address


@pytest.fixture
def queue(url: str, clock: Clock) -> Iterator[ReviewQueue]:
    opened = ReviewQueue.open(url, clock=clock)
    yield opened
    opened.close()
