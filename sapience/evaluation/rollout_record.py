"""Drawn answers from a rollouts file, some groups of it: the best and the worst answer to the same prompt.

The file of a long run is larger than memory, so it is read line by line, and lines of steps that are not wanted are not
even parsed.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sapience.evaluation.sample_reader import lines_of_steps


@dataclass(frozen=True)
class RolloutGroup:
    """The two ends of one prompt's answers."""

    step: int
    category: str
    prompt: str
    """What the user said last."""
    expected: str
    size: int
    best: dict[str, Any]
    worst: dict[str, Any]

    @property
    def spread(self) -> float:
        """How much more the best was worth."""
        return float(self.best["reward"]) - float(self.worst["reward"])


def telling_groups(path: Path, steps: Collection[int], each: int) -> list[RolloutGroup]:
    """Of each of `steps` the `each` groups with the largest spread, of different categories where there are; in order
    of steps. Empty where there is no file."""
    chosen: dict[int, dict[str, RolloutGroup]] = {}
    for group in _groups(path, frozenset(steps)):
        best = chosen.setdefault(group.step, {})
        if group.category not in best or group.spread > best[group.category].spread:
            best[group.category] = group
    return [
        group
        for step in sorted(chosen)
        for group in sorted(chosen[step].values(), key=lambda found: -found.spread)[:each]
    ]


def _groups(path: Path, steps: frozenset[int]) -> Iterator[RolloutGroup]:
    """Groups with a spread; a group's answers follow one another in the file."""
    for (step, prompt), answers in groupby(_wanted(path, steps), key=lambda record: (record["step"], _asked(record))):
        judged = [record for record in answers if isinstance(record.get("reward"), (int, float))]
        if len(judged) < 2:
            continue
        best = max(judged, key=lambda record: record["reward"])
        worst = min(judged, key=lambda record: record["reward"])
        if best["reward"] > worst["reward"]:
            category, expected = str(best.get("category") or ""), str(best.get("expected") or "")
            yield RolloutGroup(step, category, prompt, expected, len(judged), best, worst)


def _wanted(path: Path, steps: frozenset[int]) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in lines_of_steps(path, steps.__contains__):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("step") in steps:
            yield record


def _asked(record: dict[str, Any]) -> str:
    messages = record.get("messages")
    said = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    return str(said[-1]) if said else ""
