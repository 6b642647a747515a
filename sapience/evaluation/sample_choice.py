"""A few of many answers: the first, the best, the longest, or some drawn at random; and what all of them come to.

All goes through the answers once and holds no more of them than are shown.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean
from typing import Any, Literal, TypeVar

from sapience.evaluation.sample_layouts import ReadSample

Sort = Literal["reward", "step", "length"]
Item = TypeVar("Item")
Group = tuple[ReadSample, ...]


@dataclass(frozen=True)
class Choice:
    """How answers, or groups of them, are chosen among those found."""

    count: int = 10
    sort: Sort | None = None
    """Highest reward first, earliest step first, longest answer (in characters) first; None keeps the order of the files."""
    reverse: bool = False
    """The other end first."""
    seed: int | None = None
    """Draw at random, the same for the same seed; None takes the first."""

    def samples(self, samples: Iterable[ReadSample]) -> tuple[int, list[ReadSample]]:
        """How many there are, and those chosen."""
        return self._chosen(samples, self._value)

    def groups(self, groups: Iterable[Group]) -> tuple[int, list[Group]]:
        """The same for groups, by the mean of their answers."""

        def value(group: Group) -> float | None:
            values = [found for found in map(self._value, group) if found is not None]
            return fmean(values) if values else None

        return self._chosen(groups, value)

    def _value(self, sample: ReadSample) -> float | None:
        if self.sort == "reward":
            return sample.reward
        return sample.step if self.sort == "step" else float(len(sample.answer))

    def _chosen(self, items: Iterable[Item], value: Callable[[Item], float | None]) -> tuple[int, list[Item]]:
        counted = _Counted(items)
        if self.seed is not None:
            chosen = drawn(counted, self.count, self.seed)
        elif self.sort is None:
            chosen = [item for place, item in enumerate(counted) if place < self.count]
        else:
            chosen = heapq.nsmallest(self.count, counted, key=lambda item: self._place(value(item)))
        if self.seed is not None and self.sort is not None:
            chosen.sort(key=lambda item: self._place(value(item)))
        return counted.number, chosen

    def _place(self, value: float | None) -> tuple[bool, float]:
        """Sorting by this puts first what is wanted first, and last what has no value."""
        rising = (self.sort == "step") != self.reverse
        return value is None, (value or 0.0) * (1 if rising else -1)


class _Counted(Iterable[Item]):
    """Things that are counted as they go by."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.number = 0

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.number += 1
            yield item


def drawn(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """`count` of the items, each as likely as any other, in their order (Vitter 1985, algorithm R)."""
    random = Random(seed)
    kept: list[tuple[int, Item]] = []
    for place, item in enumerate(items):
        if place < count:
            kept.append((place, item))
        elif (slot := random.randrange(place + 1)) < count:
            kept[slot] = (place, item)
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]


@dataclass
class StageOverview:
    """What all answers of one stage come to."""

    stage: str
    answers: int = 0
    judged: int = 0
    right: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    rewards: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Sum and number of rewards by step."""

    def add(self, sample: ReadSample) -> None:
        """Take one more answer into account."""
        self.answers += 1
        self.judged += sample.judged
        self.right += sample.verdict == "ok"
        self.categories[sample.category] = self.categories.get(sample.category, 0) + 1
        self.verdicts[sample.verdict] = self.verdicts.get(sample.verdict, 0) + 1
        if sample.reward is not None and sample.step is not None:
            total, number = self.rewards.get(sample.step, (0.0, 0))
            self.rewards[sample.step] = total + sample.reward, number + 1

    @property
    def right_share(self) -> float | None:
        """Of those that a judge could judge."""
        return self.right / self.judged if self.judged else None

    def reward_of_tenth(self, last: bool) -> float | None:
        """Mean reward of the first or the last tenth of the steps (one step at least)."""
        steps = sorted(self.rewards)
        tenth = max(1, len(steps) // 10)
        sums = [self.rewards[step] for step in (steps[-tenth:] if last else steps[:tenth])]
        return sum(total for total, _ in sums) / sum(number for _, number in sums) if sums else None


def overview(samples: Iterable[ReadSample], seed: int = 0) -> tuple[list[StageOverview], list[ReadSample]]:
    """Every stage's sums in the order met, and of each stage one answer drawn at random (experts and measured models
    count as one stage)."""
    found: dict[str, StageOverview] = {}
    examples: dict[str, ReadSample] = {}
    met: dict[str, int] = {}
    random = Random(seed)
    for sample in samples:
        found.setdefault(sample.stage, StageOverview(sample.stage)).add(sample)
        kind = sample.stage.split("/")[0]
        met[kind] = met.get(kind, 0) + 1
        if random.randrange(met[kind]) == 0:
            examples[kind] = sample
    return list(found.values()), list(examples.values())


def group_record(group: Sequence[ReadSample]) -> dict[str, Any]:
    """A JSON-able group: what its answers share, and the answers."""
    shared = ("stage", "category", "messages", "step", "phase", "expected")
    records = [sample.record() for sample in group]
    common = {name: records[0][name] for name in shared if name in records[0]}
    return {**common, "answers": [{k: v for k, v in record.items() if k not in shared} for record in records]}
