"""Weights that no rank has whole give what whole ones give; no rank keeps more than its rows."""

import pytest
from trained_steps import Layout, compare, task_of


@pytest.mark.parametrize("ranks", [2, 4])
def test_twenty_steps_are_those_of_one_process(ranks: int) -> None:
    compare(task_of(layers=3), Layout(data=ranks, sharded=True, weights=True), 1e-9)
