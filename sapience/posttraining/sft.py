"""Supervised fine-tuning: packed samples, loss on answers only, prediction modules trained along.

The mechanism that the experts of `specialise` and the stage `finetune` call. It trains a model in place and knows
nothing of where samples come from or where the model goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from sapience.corpus.chat import ChatFormat, Rendered
from sapience.corpus.tokenizer import Tokenizer
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop
from sapience.posttraining.packing import PackedSamples
from sapience.posttraining.samples import Sample
from sapience.recipe.errors import UserError
from sapience.recipe.optimization import PredictionSection, ScheduleSection
from sapience.recipe.supervised import SupervisedSection
from sapience.run import ProgressFactory
from sapience.training.loop import Counters, Saving, Training
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import StepPlan, plan_steps


@dataclass(frozen=True)
class SupervisedResult:
    """What was trained on."""

    counters: Counters
    samples: int
    too_long: int
    """Samples that did not fit into a row and were left out."""
    rows: int
    """Packed rows of an epoch."""


def supervised_steps(rows: int, section: SupervisedSection) -> int:
    """Optimizer steps of all epochs; the last may draw a few rows of one epoch more."""
    return max(1, ceil(rows * section.epochs / section.batch.rows))


def fine_tune(
    model: Transformer,
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    section: SupervisedSection,
    seed: int,
    folder: Path,
    progress: ProgressFactory,
    note: str,
) -> SupervisedResult:
    """Train `model` in place on all samples; goes on from a checkpoint in `folder` if there is one.

    Raises UserError where no sample fits into a row.
    """
    render = ChatFormat(tokenizer).conversation
    rendered: list[Rendered] = [render(sample.messages) for sample in samples]
    packed = PackedSamples(rendered, section.length, section.batch.micro_rows, seed, tokenizer.pad_id)
    if not packed.rows:
        raise UserError(
            f"none of {len(samples)} samples fits into {section.length} tokens: raise the section's length, or give "
            "shorter samples"
        )
    objective = NextTokens(section.prediction_weight, section.balance.alpha)
    log = MetricsLog(folder)
    training = Training(
        model=model,
        executor=PlainLoop(model, objective),
        objective=objective,
        optimizer=OptimizerSet(model, section.optimizer),
        source=packed,
        plan=supervised_plan(len(packed.rows), section),
        saving=Saving(folder / "checkpoints", section.checkpoint_every, section.keep_checkpoints),
        log=log,
        log_every=section.log_every,
        note={"phase": note},
    )
    with progress(note, len(training.plan)) as bar:
        bar.advance(training.resume())
        training.on_step = lambda step, figures: bar.advance(1, **figures)
        counters = training.run()
    log.close()
    return SupervisedResult(counters, len(packed.samples), packed.too_long, len(packed.rows))


def supervised_plan(rows: int, section: SupervisedSection) -> list[StepPlan]:
    """V3's shape: a cosine from `peak` to `floor` of it over all epochs."""
    cosine = ScheduleSection(
        peak=section.peak,
        warmup=section.warmup,
        plateau_end=section.warmup,
        cosine_end=1.0,
        tail_start=1.0,
        floor=section.floor,
    )
    prediction = PredictionSection(weight=section.prediction_weight, final_weight=section.prediction_weight)
    return plan_steps(supervised_steps(rows, section), section.batch, cosine, section.balance, prediction)
