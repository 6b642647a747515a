"""What ranks compute and what they send meanwhile, as data with a clock: no model, no GPU, no second process.

A rank has two lanes, arithmetic and network. Each does its tasks in order and each task as early as possible: when its lane is
free and what it waits for has ended. A collective is one task of the network lanes of all its ranks: it begins when all of
them are ready. What the dimensions of a cluster do is in `dimensions`; the order of a pipeline's chunks in `schedule`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sapience.parallel.schedule import Impossible

Lane = Literal["arithmetic", "network"]
LANES: tuple[Lane, ...] = ("arithmetic", "network")
Work = Literal["forward", "backward", "optimizer", "weights", "gradients", "states", "slopes", "norm"]
"""What is computed, or what travels: weights, their gradients, hidden states, hidden states' gradients, the sums of a step."""


@dataclass(frozen=True)
class Task:
    """Something that occupies a lane of a rank, or the network lanes of several."""

    ranks: tuple[int, ...]
    lane: Lane
    work: Work
    label: str
    time: float
    """In any unit."""
    after: tuple[int, ...] = ()
    """Tasks that have to have ended, by their numbers."""
    short: str = ""
    """The label where there is little room."""


@dataclass(frozen=True)
class Lanes:
    """All tasks, numbered from zero. A lane does its own in this order, and a task waits for earlier ones only, so that every
    order comes to an end."""

    name: str
    ranks: int
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Raises Impossible for a task without an end, of no rank, or that waits for itself or a later one."""
        for number, task in enumerate(self.tasks):
            if not (math.isfinite(task.time) and task.time >= 0):
                raise Impossible(f"{task.label} takes {task.time:g}: a time is a number, and not below zero")
            if not task.ranks or not set(task.ranks) <= set(range(self.ranks)):
                raise Impossible(f"{task.label} is of ranks {task.ranks}, and there are {self.ranks}")
            if any(not 0 <= before < number for before in task.after):
                raise Impossible(f"{task.label} (task {number}) waits for {task.after}, which are not all before it")


@dataclass(frozen=True)
class LaneTimeline:
    """Lanes on a clock that begins at zero."""

    lanes: Lanes
    begins: tuple[float, ...]
    """Of every task."""

    @property
    def end(self) -> float:
        """When everything is done."""
        return max((self.end_of(number) for number in range(len(self.begins))), default=0.0)

    def end_of(self, number: int) -> float:
        """When a task is done."""
        return self.begins[number] + self.lanes.tasks[number].time

    def of(self, rank: int, lane: Lane) -> Iterator[tuple[Task, float, float]]:
        """What a lane does from when to when, in order."""
        for number, task in enumerate(self.lanes.tasks):
            if task.lane == lane and rank in task.ranks:
                yield task, self.begins[number], self.end_of(number)

    def busy(self, rank: int, lane: Lane) -> float:
        """How long a lane works."""
        return sum(task.time for task, _, _ in self.of(rank, lane))

    @property
    def idle_share(self) -> float:
        """Of the arithmetic lanes' time, all ranks together."""
        whole = self.end * self.lanes.ranks
        return 1 - sum(self.busy(rank, "arithmetic") for rank in range(self.lanes.ranks)) / whole if whole else 0.0

    @property
    def hidden_share(self) -> float:
        """Of the network lanes' work, what a rank's own arithmetic runs beside; one where nothing travels."""
        whole = beside = 0.0
        for rank in range(self.lanes.ranks):
            whole += self.busy(rank, "network")
            for _, begin, end in self.of(rank, "network"):
                computed = ((max(begin, start), min(end, stop)) for _, start, stop in self.of(rank, "arithmetic"))
                beside += sum(max(0.0, stop - start) for start, stop in computed)
        return beside / whole if whole else 1.0


def timed(lanes: Lanes) -> LaneTimeline:
    """Every task as early as its lanes and what it waits for allow."""
    free: dict[tuple[int, Lane], float] = {}
    ends: list[float] = []
    begins: list[float] = []
    for task in lanes.tasks:
        places = [(rank, task.lane) for rank in task.ranks]
        begin = max([free.get(place, 0.0) for place in places] + [ends[before] for before in task.after])
        begins.append(begin)
        ends.append(begin + task.time)
        free |= dict.fromkeys(places, ends[-1])
    return LaneTimeline(lanes, tuple(begins))
