"""Python's search for circles of objects, which a loop of many small objects sets off again and again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 20_000, 20, 20
"""New objects behind which the youngest are searched, and so many searches of a generation behind which the next one is."""


@contextmanager
def seldom_searched() -> Iterator[None]:
    """What exists now, a million objects of libraries, is not searched in here, and what is new more seldom.

    Objects that are in no circle are freed at once as ever.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
