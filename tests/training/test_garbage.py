"""Circles of objects are still found, old objects are left alone, and everything is as before in the end."""

import gc
import weakref

import pytest

from sapience.training.garbage import SELDOM, seldom_searched


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_new_circles_are_freed_and_old_objects_left_alone() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    old = Circle()
    with seldom_searched():
        assert gc.get_freeze_count() > frozen + 1000 and gc.get_threshold() == SELDOM
        seen, kept = weakref.ref(Circle()), weakref.ref(old)
        del old
        gc.collect()
        assert seen() is None and kept() is not None
    gc.collect()
    assert kept() is None
    assert gc.get_threshold() == before and gc.get_freeze_count() == frozen


def test_an_error_inside_changes_nothing_of_that() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="no"), seldom_searched():
        raise ValueError("no")
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0
