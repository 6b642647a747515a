"""A pipeline schedule as data: who does what in which order. Checked and timed without a model, a GPU or a second process.

The model is cut into stages; a chunk of work is one micro-batch's forward or backward pass through one stage. The backward
pass may be split into the gradient of the stage's input, for which the stage before is waiting, and that of its weights, for
which nobody is (zero-bubble schedules; Qi et al. 2023). Where a forward and a backward chunk run as one overlapped pair
(DeepSeek-V3 report, section 3.2.1), they are one action.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["F", "B", "I", "W"]
"""Forward; backward; the backward pass's part for the input; that for the weights."""


@dataclass(frozen=True)
class Chunk:
    """A micro-batch's pass through a stage."""

    kind: Kind
    stage: int
    microbatch: int


Action = tuple[Chunk, ...]
"""A chunk, or two that run as an overlapped pair."""


@dataclass(frozen=True)
class Schedule:
    """What every rank does, in order."""

    name: str
    copies: tuple[tuple[int, ...], ...]
    """For each copy of the model the rank of every stage; all have the same number of stages."""
    copy_of: tuple[int, ...]
    """The copy that a micro-batch goes through."""
    actions: tuple[tuple[Action, ...], ...]
    """Of every rank."""

    @property
    def ranks(self) -> int:
        return len(self.actions)

    @property
    def stages(self) -> int:
        return len(self.copies[0])

    @property
    def microbatches(self) -> int:
        return len(self.copy_of)

    def rank_of(self, stage: int, microbatch: int) -> int:
        """Where a micro-batch passes a stage."""
        return self.copies[self.copy_of[microbatch]][stage]


@dataclass(frozen=True)
class Times:
    """How long a chunk takes, in any unit. The part for the input is what the part for the weights leaves of the backward."""

    forward: float = 1.0
    backward: float = 2.0
    """Both parts."""
    weight: float = 1.0
    pair: float = 3.0
    """A forward and a backward chunk that overlap."""

    def of(self, action: Action) -> float:
        """Of an action."""
        if len(action) == 2:
            return self.pair
        kinds = {"F": self.forward, "B": self.backward, "W": self.weight, "I": self.backward - self.weight}
        return kinds[action[0].kind]


@dataclass(frozen=True)
class Interval:
    """When an action runs."""

    action: Action
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A schedule on a clock that begins at zero, every action as early as its rank and what it waits for allow."""

    ranks: tuple[tuple[Interval, ...], ...]

    @property
    def end(self) -> float:
        return max(intervals[-1].end for intervals in self.ranks if intervals)

    def bubble(self, rank: int) -> float:
        """How long the rank is idle."""
        return self.end - sum(one.end - one.begin for one in self.ranks[rank])


class Impossible(ValueError):
    """A schedule that does not compute what it is for, or never ends."""


def waits_for(chunk: Chunk, stages: int) -> Iterator[tuple[tuple[Kind, ...], int, int]]:
    """Kinds (one of which has to be done), stage and micro-batch of what has to be done before."""
    stage, microbatch = chunk.stage, chunk.microbatch
    if chunk.kind == "F":
        if stage:
            yield ("F",), stage - 1, microbatch
    elif chunk.kind == "W":
        yield ("I",), stage, microbatch
    else:
        yield ("F",), stage, microbatch
        if stage + 1 < stages:
            yield ("B", "I"), stage + 1, microbatch


def timed(schedule: Schedule, times: Times) -> Timeline:
    """The schedule's timeline; nothing but the chunks takes time. Raises Impossible where it can never end."""
    done: dict[Chunk, float] = {}
    free = [0.0] * schedule.ranks
    intervals: list[list[Interval]] = [[] for _ in range(schedule.ranks)]
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(schedule.actions):
            while len(intervals[rank]) < len(actions):
                action = actions[len(intervals[rank])]
                ready = _ready(action, schedule.stages, done)
                if ready is None:
                    break
                begin = max(free[rank], ready)
                free[rank] = begin + times.of(action)
                intervals[rank].append(Interval(action, begin, free[rank]))
                done |= dict.fromkeys(action, free[rank])
                moved = True
    for rank, actions in enumerate(schedule.actions):
        if len(intervals[rank]) < len(actions):
            stuck = actions[len(intervals[rank])]
            raise Impossible(f"{schedule.name} never ends: rank {rank} waits for ever with {_said(stuck)}")
    return Timeline(tuple(map(tuple, intervals)))


def _ready(action: Action, stages: int, done: Mapping[Chunk, float]) -> float | None:
    ready = 0.0
    for chunk in action:
        for kinds, stage, microbatch in waits_for(chunk, stages):
            ends = [done[one] for kind in kinds if (one := Chunk(kind, stage, microbatch)) in done]
            if not ends:
                return None
            ready = max(ready, *ends)
    return ready


def check(schedule: Schedule, most_kept: Sequence[int] | None = None) -> None:
    """Raises Impossible unless every micro-batch passes every stage once, forward and backward, on the rank that has the
    stage, nothing waits for ever, gradients of weights are made in the order in which they were put off, and no rank keeps the
    activations of more than most_kept[rank] chunks."""
    seen: dict[Chunk, int] = {}
    for rank, actions in enumerate(schedule.actions):
        put_off: list[Chunk] = []
        for action in actions:
            if not 0 < len(action) < 3 or (len(action) == 2 and [chunk.kind for chunk in action] != ["F", "B"]):
                raise Impossible(
                    f"rank {rank} has {_said(action)}: an action is a chunk, or a forward and a backward one"
                )
            for chunk in action:
                if not (0 <= chunk.stage < schedule.stages and 0 <= chunk.microbatch < schedule.microbatches):
                    raise Impossible(f"{_said(action)} on rank {rank} is of no stage or of no micro-batch")
                if schedule.rank_of(chunk.stage, chunk.microbatch) != rank:
                    raise Impossible(f"{_said(action)} is on rank {rank}, which does not have that stage")
                if chunk in seen:
                    raise Impossible(f"{_said((chunk,))} happens twice")
                seen[chunk] = rank
                if chunk.kind == "I":
                    put_off.append(chunk)
                elif chunk.kind == "W":
                    first = put_off.pop(0) if put_off else None
                    if first is None or (first.stage, first.microbatch) != (chunk.stage, chunk.microbatch):
                        raise Impossible(f"{_said((chunk,))} on rank {rank} is not what was put off first")
        if put_off:
            raise Impossible(f"rank {rank} ends without {_said((put_off[0],))}'s gradient of the weights")
    for microbatch in range(schedule.microbatches):
        for stage in range(schedule.stages):
            kinds = {kind for kind in ("F", "B", "I", "W") if Chunk(kind, stage, microbatch) in seen}
            if kinds not in ({"F", "B"}, {"F", "I", "W"}):
                raise Impossible(
                    f"micro-batch {microbatch} at stage {stage} has {sorted(kinds)} and no whole backward pass"
                )
    timed(schedule, Times())
    for rank, kept in enumerate(kept_at_most(schedule)):
        if most_kept is not None and kept > most_kept[rank]:
            raise Impossible(f"rank {rank} keeps the activations of {kept} chunks, and {most_kept[rank]} are allowed")


def kept_at_most(schedule: Schedule, sizes: Sequence[int] | None = None) -> list[int]:
    """For every rank, of how many chunks it keeps activations at the most: from the forward pass to the backward pass, or to
    its part for the input (what the part for the weights needs after that is left out). With the `sizes` of a chunk's
    activations at every stage, how much."""
    sizes = [1] * schedule.stages if sizes is None else sizes
    most = []
    for actions in schedule.actions:
        kept = peak = 0
        for action in actions:
            kept += sum(sizes[chunk.stage] for chunk in action if chunk.kind == "F")
            peak = max(peak, kept)
            kept -= sum(sizes[chunk.stage] for chunk in action if chunk.kind in ("B", "I"))
        most.append(peak)
    return most


def _said(action: Action) -> str:
    return " & ".join(f"{chunk.kind} of micro-batch {chunk.microbatch} at stage {chunk.stage}" for chunk in action)
