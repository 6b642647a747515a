"""A whole training in miniature: rows that are a function of their number, a real model, a real loop."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_config

from sapience.model.batch import Microbatch, from_rows
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop, StepExecutor
from sapience.recipe.optimization import (
    BalanceSection,
    BatchSection,
    OptimizerSection,
    PredictionSection,
    ScheduleSection,
)
from sapience.training.loop import Saving, Training
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import plan_steps


class NumberedRows:
    """Row n of the stream from a generator seeded by n: learnable (few tokens, which repeat), with documents and padding."""

    def __init__(self, vocabulary: int, length: int, micro_rows: int) -> None:
        self.vocabulary, self.length, self.micro_rows = vocabulary, length, micro_rows
        self._last = b""

    def row(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        motif = torch.randint(3, self.vocabulary // 6, (4,), generator=generator)
        tokens = motif.repeat(self.length)[: self.length + 1]
        cut = int(torch.randint(2, self.length, (1,), generator=generator))
        documents = (torch.arange(self.length + 1) >= cut).to(torch.int32)
        if number % 3 == 0:
            tokens[-3:], documents[-3:] = 2, -1
        return tokens, documents

    def microbatches(self, first_row: int, rows: int) -> list[Microbatch]:
        drawn = [self.row(number) for number in range(first_row, first_row + rows)]
        tokens, documents = (torch.stack(part) for part in zip(*drawn, strict=True))
        self._last = tokens.numpy().tobytes() + documents.numpy().tobytes()
        size = self.micro_rows
        return [from_rows(tokens[i : i + size], documents[i : i + size]) for i in range(0, rows, size)]

    def chain(self, previous: str) -> str:
        return hashlib.sha256(previous.encode() + self._last).hexdigest()


def tiny_training(
    folder: Path,
    steps: int = 12,
    optimizer: str = "adamw",
    executor: Callable[[Transformer, NextTokens], StepExecutor] = PlainLoop,
    micro_rows: int = 2,
    save_every: int = 4,
    keep: int = 2,
    model_seed: int = 0,
    **changes: Any,
) -> Training:
    """A stage's training as `pretrain` builds it: batch ramp, V3's schedule, balancing, one prediction module."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Transformer(tiny_config(initializer_range=0.1, **changes)).initialize(model_seed)
    objective = NextTokens(0.3, 1e-4)
    section = OptimizerSection.model_validate({"name": optimizer})
    return Training(
        model=model,
        executor=executor(model, objective),
        objective=objective,
        optimizer=OptimizerSet(model, section),
        source=NumberedRows(model.config.vocab_size, 12, micro_rows),
        plan=plan_steps(
            steps,
            BatchSection(rows=4, start_rows=2, ramp=0.3),
            ScheduleSection(peak=1e-2, warmup=0.1),
            BalanceSection(gamma=0.01),
            PredictionSection(),
        ),
        saving=Saving(folder / "checkpoints", save_every, keep),
        log=MetricsLog(folder),
        log_every=2,
    )
