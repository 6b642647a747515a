"""The stage `finetune`: from base model to SFT model on reviewed samples (DeepSeek-V3 report, section 5.1).

finetune/metrics.jsonl, checkpoints/   the training
finetune/model/                        the SFT model
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sapience.corpus.tokenizer import Tokenizer
from sapience.model.huggingface import load_model
from sapience.posttraining.chat_model import beginning, save_chat_model
from sapience.posttraining.samples import Kind, Sample, load_samples, read_samples, unique
from sapience.posttraining.sft import fine_tune
from sapience.recipe.errors import UserError
from sapience.run import StageContext
from sapience.training.device import placed
from sapience.training.metrics import MetricsLog


def run(context: StageContext) -> dict[str, Any]:
    """Train on what the run has reviewed and on the user's own samples."""
    section, folder = context.recipe.finetune, context.folder
    base = beginning(context, section.model, "extend", "pretrain")
    samples, bad = gathered(context)
    tokenizer = Tokenizer.load(base)
    model = placed(load_model(base), section.supervised)
    result = fine_tune(
        model,
        tokenizer,
        repeated(samples, section.repeats),
        section.supervised,
        context.recipe.seed,
        folder,
        context.progress,
        "SFT",
    )
    save_chat_model(model, tokenizer, folder / "model")
    records = MetricsLog(folder).read("metrics")
    losses = [r["loss"] for r in records if r["loss"] is not None and math.isfinite(r["loss"])]
    return {
        "loss": [round(losses[0], 4), round(losses[-1], 4)] if losses else [],
        "samples": len(samples),
        "by_kind": dict(Counter(sample.kind for sample in samples)),
        "bad_lines": bad,
        "too_long": result.too_long,
        "rows": result.rows,
        "steps": result.counters.step,
        "tokens": result.counters.tokens,
        "training_seconds": round(result.counters.seconds, 1),
        "tokens_per_second": round(result.counters.tokens / max(result.counters.seconds, 1e-9)),
    }


def repeated(samples: Sequence[Sample], repeats: Mapping[Kind, int]) -> list[Sample]:
    """Every sample as often as its kind stands in an epoch, in rounds, so that copies do not end up side by side."""
    rounds = max((repeats.get(sample.kind, 1) for sample in samples), default=0)
    return [sample for turn in range(rounds) for sample in samples if repeats.get(sample.kind, 1) > turn]


def gathered(context: StageContext) -> tuple[list[Sample], int]:
    """Every sample once, and how many lines of the user's files could not be used. Raises UserError where there is none."""
    section = context.recipe.finetune
    samples: list[Sample] = []
    if "review" in context.inputs:
        samples += read_samples(context.inputs["review"] / "samples.jsonl")
    bad = 0
    for text in section.samples:
        loaded = load_samples(Path(text), Path(text).name)
        samples += loaded.samples
        bad += len(loaded.bad)
    if not samples:
        raise UserError(
            "finetune has nothing to learn from: name JSONL files under finetune.samples, or let the stages distill and "
            "review make samples"
        )
    return list(unique(samples)), bad
