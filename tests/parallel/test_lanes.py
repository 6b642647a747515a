"""Lanes on a clock: order, collectives, what waits for what; and that nothing could be earlier."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.parallel.lanes import LANES, Lanes, Task, timed
from sapience.parallel.schedule import Impossible


@st.composite
def any_lanes(draw: st.DrawFn) -> Lanes:
    """Tasks and collectives of up to four ranks, whole numbers of time."""
    ranks = draw(st.integers(1, 4))
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 20))):
        lane = draw(st.sampled_from(LANES))
        some = st.sets(st.integers(0, ranks - 1), min_size=1, max_size=1 if lane == "arithmetic" else ranks)
        after = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        time = draw(st.integers(0, 9))
        tasks.append(Task(tuple(draw(some)), lane, "forward", str(number), time, tuple(after)))
    return Lanes("any", ranks, tuple(tasks))


@given(any_lanes())
def test_lanes_do_one_thing_at_a_time_in_order_and_nothing_waits_in_vain(lanes: Lanes) -> None:
    timeline = timed(lanes)
    for rank in range(lanes.ranks):
        for lane in LANES:
            done = list(timeline.of(rank, lane))
            assert [task for task, _, _ in done] == [t for t in lanes.tasks if t.lane == lane and rank in t.ranks]
            assert all(before[2] <= after[1] for before, after in pairwise(done))
            assert timeline.end >= timeline.busy(rank, lane) == sum(end - begin for _, begin, end in done)
    for number, task in enumerate(lanes.tasks):
        before = [
            other
            for other, one in enumerate(lanes.tasks[:number])
            if other in task.after or (one.lane == task.lane and set(one.ranks) & set(task.ranks))
        ]
        assert timeline.begins[number] == max(map(timeline.end_of, before), default=0)
    assert 0 <= timeline.idle_share <= 1 and 0 <= timeline.hidden_share <= 1


def test_a_collective_begins_when_the_last_of_its_ranks_is_ready() -> None:
    """Rank 0 computes for one unit and rank 1 for three; they add up for two; rank 1 goes on meanwhile."""
    timeline = timed(
        Lanes(
            "by hand",
            2,
            (
                Task((0,), "arithmetic", "backward", "B", 1),
                Task((1,), "arithmetic", "backward", "B", 3),
                Task((0, 1), "network", "gradients", "all-reduce", 2, (0, 1)),
                Task((1,), "arithmetic", "forward", "F", 1),
                Task((0,), "arithmetic", "optimizer", "AdamW", 1, (2,)),
            ),
        )
    )
    assert timeline.begins == (0, 0, 3, 3, 5) and timeline.end == 6
    assert timeline.idle_share == pytest.approx(1 - 6 / 12)
    assert timeline.hidden_share == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task((0,), "network", "norm", "x", 1, (1,)), "x .task 1. waits for .1,., which are not all before it"),
        (Task((0,), "network", "norm", "x", 1, (-1,)), "not all before it"),
        (Task((2,), "network", "norm", "x", 1), r"x is of ranks \(2,\), and there are 2"),
        (Task((), "network", "norm", "x", 1), "x is of ranks"),
        (Task((0,), "network", "norm", "x", float("nan")), "x takes nan: a time is a number"),
        (Task((0,), "network", "norm", "x", -1), "x takes -1"),
    ],
    ids=str,
)
def test_what_could_never_run_is_refused(task: Task, reason: str) -> None:
    with pytest.raises(Impossible, match=reason):
        Lanes("wrong", 2, (Task((0,), "arithmetic", "forward", "F", 1), task))


def test_nothing_at_all_takes_no_time() -> None:
    timeline = timed(Lanes("nothing", 1, ()))
    assert (timeline.end, timeline.idle_share, timeline.hidden_share) == (0, 0, 1)
