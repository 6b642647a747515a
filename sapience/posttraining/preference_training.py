"""Training a reward model on pairs: a resumable loop whose every step is a function of (seed, step) and the weights.

DeepSeek-R1 trains its reward models for one epoch at 6e-6 (appendix B.2 there); V3's settings are not published.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from sapience.corpus.chat import ChatFormat
from sapience.parallel.executor import PlainLoop
from sapience.posttraining.preference import PreferencePair
from sapience.posttraining.reward_model import (
    PreferenceObjective,
    RewardModel,
    ScoredBatch,
    ScoredRow,
    scored_batch,
    scored_row,
)
from sapience.recipe.errors import UserError
from sapience.recipe.optimization import ScheduleSection
from sapience.recipe.reward import RewardSection
from sapience.run import ProgressFactory
from sapience.training.checkpoint import latest_checkpoint, save_checkpoint
from sapience.training.metrics import MetricsLog
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import learning_rate
from sapience.training.skipped import UpdateCounters

RenderedPair = tuple[ScoredRow, ScoredRow]
"""The conversation with the chosen answer, and of that with the rejected one."""


@dataclass
class PreferenceCounters(UpdateCounters):
    """What a checkpoint keeps beside tensors."""

    step: int = 0
    pairs: int = 0
    seconds: float = 0.0
    drawn: str = ""
    """Hash of all pairs learned from so far, in their order."""


@dataclass
class PreferenceTraining:
    """A reward model's training, ready to begin or to go on."""

    model: RewardModel
    pairs: Sequence[RenderedPair]
    section: RewardSection
    seed: int
    pad_id: int
    folder: Path
    log: MetricsLog
    note: str = "reward model"
    counters: PreferenceCounters = field(default_factory=PreferenceCounters)

    def run(self, progress: ProgressFactory) -> PreferenceCounters:
        """All steps, from the last checkpoint if there is one. Raises UserError without pairs, and where gradients stay
        not finite."""
        if not self.pairs:
            raise UserError("there is no pair to learn from: set reward.written, or give files in reward.pairs")
        section = self.section
        steps = steps_per_epoch(len(self.pairs), section.batch_pairs) * section.epochs
        optimizer = OptimizerSet(self.model, section.optimizer)
        executor = PlainLoop(self.model.transformer, PreferenceObjective(self.model, section.center))
        self._resume(optimizer)
        with progress(self.note, steps) as bar:
            bar.advance(self.counters.step)
            while self.counters.step < steps:
                figures = self._step(optimizer, executor, steps)
                done = self.counters.step
                if done % section.log_every == 0 or done == steps:
                    self.log.write("metrics", {"step": done, "phase": self.note, **figures})
                if done % section.checkpoint_every == 0 or done == steps:
                    self._save(optimizer)
                bar.advance(1, **{name: figures[name] for name in ("loss", "accuracy") if figures[name] is not None})
        return self.counters

    def _step(self, optimizer: OptimizerSet, executor: PlainLoop, steps: int) -> dict[str, Any]:
        began = time.perf_counter()
        section, counters = self.section, self.counters
        chosen = pairs_of_step(len(self.pairs), section.batch_pairs, self.seed, counters.step)
        batches = pair_batches([self.pairs[i] for i in chosen], section.micro_pairs, self.pad_id)
        sums = executor.forward_backward(batches, len(chosen))
        rate = preference_rate(section, (counters.step + 0.5) / steps)
        norm = float(optimizer.step(rate))
        counters.count_update(norm, "steps of the reward model", f"step {counters.step}", "lower reward.peak")
        counters.step += 1
        counters.pairs += len(chosen)
        counters.drawn = hashlib.sha256((counters.drawn + repr(chosen)).encode()).hexdigest()[:32]
        counters.seconds += time.perf_counter() - began
        means = {name: float(value) / len(chosen) for name, value in sums.values.items()}
        figures = {**means, "gradient_norm": norm, "learning_rate": rate, "seconds": round(counters.seconds, 3)}
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def _save(self, optimizer: OptimizerSet) -> None:
        save_checkpoint(
            self.folder / "checkpoints",
            self.counters.step,
            self.model.state_dict(),
            optimizer.tensors(),
            asdict(self.counters),
            self.section.keep_checkpoints,
        )

    def _resume(self, optimizer: OptimizerSet) -> None:
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.weights)
            optimizer.load(checkpoint.optimizer)
            self.counters = PreferenceCounters(**checkpoint.state)
        # Step 0 keeps the stage's other files, whose lines have no step; metrics begin at 1.
        self.log.rewind(self.counters.step)


def rendered_pairs(
    chat: ChatFormat, pairs: Sequence[PreferencePair], length: int
) -> tuple[list[RenderedPair], list[PreferencePair]]:
    """Tokens of the pairs of which neither conversation is longer than `length`, and those pairs."""
    rendered, kept = [], []
    for pair in pairs:
        chosen, rejected = (scored_row(chat, pair.conversation(answer)) for answer in (pair.chosen, pair.rejected))
        if max(len(chosen), len(rejected)) <= length:
            rendered.append((chosen, rejected))
            kept.append(pair)
    return rendered, kept


def steps_per_epoch(pairs: int, batch_pairs: int) -> int:
    """Steps in which every pair is seen once."""
    return ceil(pairs / batch_pairs)


def pairs_of_step(pairs: int, batch_pairs: int, seed: int, step: int) -> list[int]:
    """Numbers of a step's pairs: the epoch's own order, cut into steps that differ by one pair at most.

    A last step of a few pairs would move the weights as far as the others do, by what little it knows.
    """
    steps = steps_per_epoch(pairs, batch_pairs)
    epoch, place = divmod(step, steps)
    order = np.random.default_rng([seed, epoch]).permutation(pairs)
    return [int(number) for number in np.array_split(order, steps)[place]]


def pair_batches(pairs: Sequence[RenderedPair], micro_pairs: int, pad_id: int) -> list[ScoredBatch]:
    """Micro-batches, pairs of like length together: the chosen answers' rows, then the rejected ones' in that order."""
    ordered = sorted(pairs, key=lambda pair: max(map(len, pair)))
    parts = [ordered[start : start + micro_pairs] for start in range(0, len(ordered), micro_pairs)]
    return [scored_batch([*(c for c, _ in part), *(r for _, r in part)], pad_id) for part in parts]


def preference_rate(section: RewardSection, share: float) -> float:
    """Learning rate at `share` of the steps: linear warm-up, then a cosine to a tenth."""
    warmup = section.warmup
    curve = ScheduleSection(
        peak=section.peak, warmup=warmup, plateau_end=warmup, cosine_end=1.0, tail_start=1.0, floor=0.1
    )
    return learning_rate(curve, share)
