"""Every answer that a run kept, one after another, whichever stage wrote it and in whatever layout.

The files of a long run are larger than memory, so they are read line by line and nothing is held but what is shown. A
line that cannot be read, such as the half-written last one of a stage at work, is counted and passed over. Needs no torch.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sapience.evaluation.sample_layouts import PARSERS, ReadSample
from sapience.recipe.errors import UserError

_STEP = re.compile(r'\s*\{\s*"step":\s*(\d+)')
"""A rollout's step, which is its first key: lines of other steps need not be parsed."""
_DISTILLED = ("original", "reasoned", "everyday", "drafts")


@dataclass(frozen=True)
class Wanted:
    """Which answers; an empty field asks nothing."""

    stage: str = ""
    """A stage with all its parts (`specialise`), or one of them (`specialise/math`)."""
    category: str = ""
    verdict: str = ""
    steps: tuple[int, int] | None = None
    """First and last."""
    search: str = ""
    """Words in the answer or before it, in any case of letters."""

    def accepts(self, sample: ReadSample) -> bool:
        """Whether the answer has all that is asked."""
        if self.steps and (sample.step is None or not self.steps[0] <= sample.step <= self.steps[1]):
            return False
        if self.category not in ("", sample.category) or self.verdict not in ("", sample.verdict):
            return False
        words = self.search.casefold()
        texts = (sample.answer, *(content for _, content in sample.messages))
        return not words or any(words in text.casefold() for text in texts)


class SampleReader:
    """The answers of a run. Raises UserError where it has none."""

    def __init__(self, run: Path) -> None:
        self.files = sample_files(run)
        self.unreadable = 0
        """Lines passed over so far."""
        if not self.files:
            raise UserError(
                f"{run} has no answers yet: specialise, distill, reinforce and evaluate write what models say"
            )

    def samples(self, wanted: Wanted | None = None) -> Iterator[ReadSample]:
        """All that are wanted, file by file in the order of the journey. Raises UserError for a stage there is not."""
        wanted = wanted or Wanted()
        for stage, path in self._files_of(wanted.stage):
            for sample in self._read(stage, path, wanted.steps):
                if wanted.accepts(sample):
                    yield sample

    def groups(self, wanted: Wanted | None = None) -> Iterator[tuple[ReadSample, ...]]:
        """All answers to one prompt of one step, where there are several and one of them is wanted."""
        wanted = wanted or Wanted()
        for stage, path in self._files_of(wanted.stage):
            read = self._read(stage, path, wanted.steps)
            for _, answers in groupby(read, key=lambda sample: (sample.step, sample.phase, sample.messages)):
                group = tuple(answers)
                if len(group) > 1 and any(map(wanted.accepts, group)):
                    yield group

    def _files_of(self, stage: str) -> list[tuple[str, Path]]:
        found = [(name, path) for name, path in self.files if stage in ("", name, name.split("/")[0])]
        if not found:
            have = ", ".join(dict.fromkeys(part for name, _ in self.files for part in (name.split("/")[0], name)))
            raise UserError(f"there are no answers of a stage {stage}: choose from {have}")
        return found

    def _read(self, stage: str, path: Path, steps: tuple[int, int] | None) -> Iterator[ReadSample]:
        parse = PARSERS[stage.split("/")[0]]
        for line in lines_of_steps(path, lambda step: steps is None or steps[0] <= step <= steps[1]):
            try:
                record = json.loads(line)
                found = parse(stage, record)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                self.unreadable += bool(line.strip())
                continue
            yield from found


def lines_of_steps(path: Path, wanted: Callable[[int], bool]) -> Iterator[str]:
    """The lines of a file that may be of a wanted step: those that begin with another step are not given out."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            begins = _STEP.match(line)
            if begins is None or wanted(int(begins[1])):
                yield line


def sample_files(run: Path) -> list[tuple[str, Path]]:
    """The files with answers that there are, each with the name of its stage, in the order of the journey."""
    candidates = [(f"specialise/{path.parent.name}", path) for path in sorted(run.glob("specialise/*/rollouts.jsonl"))]
    candidates += [(f"distill/{name}", run / "distill" / f"{name}.jsonl") for name in _DISTILLED]
    candidates += [("review", run / "review" / "samples.jsonl"), ("reward", run / "reward" / "pairs.jsonl")]
    candidates += [("reinforce", run / "reinforce" / "rollouts.jsonl")]
    evaluated = sorted((run / "evaluate").glob("samples-*.jsonl"))
    candidates += [(f"evaluate/{path.stem.removeprefix('samples-')}", path) for path in evaluated]
    return [(stage, path) for stage, path in candidates if path.is_file()]


def parse_steps(text: str) -> tuple[int, int]:
    """`12` or `10-20` as first and last step. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise UserError(f"--step {text} is no step: write one, such as 12, or a range, such as 10-20")
    return int(found[1]), int(found[2] or found[1])
