"""The stage `pretrain`: from token shards to a base model (DeepSeek-V3 report, section 4.2)."""

from pathlib import Path
from typing import Any

from sapience.corpus.documents import Document
from sapience.corpus.shards import TokenShard
from sapience.corpus.stream import ChangingStream
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.bits_per_byte import bits_per_byte, xz_bits_per_byte
from sapience.evaluation.held_out import held_out_domains, held_out_sample
from sapience.evaluation.mtp import bigram_successors, draft_score
from sapience.inference.generate import generate
from sapience.model.huggingface import load_model, save_model
from sapience.model.transformer import Transformer
from sapience.pretraining.mixture import open_shards, stretches
from sapience.pretraining.rows import StreamRows
from sapience.pretraining.shared_training import share_training
from sapience.recipe import Recipe, UserError
from sapience.run import StageContext, resolve_model
from sapience.training.loop import Saving, Training, tail_violations
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import plan_steps

SAMPLE_TOKENS = 48
"""Length of the texts sampled during training."""
DRAFT_BYTES = 16384
"""Held-out bytes per domain on which drafts are measured at the end."""


def run(context: StageContext) -> dict[str, Any]:
    """Train, measure, save; the model goes to `model/`, curves and samples to JSONL beside it."""
    recipe, section, folder = context.recipe, context.recipe.pretrain, context.folder
    tokenizer = Tokenizer.load(context.inputs["tokenizer"])
    shards = open_shards(context.inputs["tokenizer"])
    plan = plan_steps(section.steps, section.batch, section.schedule, section.balance, section.prediction)
    stream = ChangingStream(shards, stretches(recipe, shards, plan), section.length, recipe.seed)
    model = start_model(recipe, tokenizer)
    log = MetricsLog(folder)
    objective = NextTokens(section.prediction.weight, section.balance.alpha)
    rows = [step.rows for step in plan]
    shared = share_training(model, objective, section, rows, section.batch.micro_rows, recipe.parallel, context.team)
    marks = evaluation_marks(section.steps, section.evaluations)
    training = Training(
        model=shared.model,
        executor=shared.executor,
        objective=objective,
        optimizer=OptimizerSet(shared.model, section.optimizer, shared.optimized),
        source=StreamRows(stream, section.batch.micro_rows, section.isolate_documents, shared.cut),
        plan=plan,
        saving=Saving(folder / "checkpoints", section.checkpoint_every, section.keep_checkpoints),
        log=log,
        log_every=section.log_every,
        note={"phase": "pretrain"},
        pauses=marks,
        spread=shared.spread,
    )

    def look(step: int) -> None:
        whole = shared.whole_model()
        if whole is not None:
            observe(context, whole, tokenizer, log, step)
        shared.wait()

    with context.progress("pretrain", section.steps) as bar:
        bar.advance(training.resume())
        if training.counters.step == 0:
            look(0)

        def on_step(step: int, figures: dict[str, float]) -> None:
            bar.advance(1, **figures)
            if step in marks:
                look(step)

        training.on_step = on_step
        counters = training.run()
    log.close()
    whole = shared.whole_model()
    if whole is None:
        return {}
    model = whole
    save_model(model, folder / "model", tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(folder / "model")
    figures = final_figures(context, model, tokenizer, shards)
    violations = tail_violations(counters)
    return figures | {
        "steps": counters.step,
        "tokens": counters.tokens,
        "skipped_steps": counters.skipped,
        "loss_spikes": counters.spikes,
        "tokens_per_second": round(counters.tokens / max(counters.seconds, 1e-9)),
        "training_seconds": round(counters.seconds, 1),
        "max_violation": round(max(violations, default=0.0), 4),
        "max_violation_by_layer": [round(value, 4) for value in violations],
        "parameters": sum(p.numel() for p in model.parameters()),
        "stream": counters.stream,
    }


def start_model(recipe: Recipe, tokenizer: Tokenizer) -> Transformer:
    """Random weights by the recipe's seed, or the user's own model. Raises UserError where the vocabulary is too small."""
    section = recipe.pretrain
    if section.model is not None:
        model = load_model(resolve_model(section.model))
    else:
        config = recipe.model.model_copy(update={"max_position_embeddings": section.length})
        model = Transformer(config).initialize(recipe.seed)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model only {model.config.vocab_size}: "
            f"set model.vocab_size to {tokenizer.vocab_size} or more, or give the model's own tokenizer as tokenizer.path"
        )
    return model


def evaluation_marks(steps: int, count: int) -> frozenset[int]:
    """Finished steps after which the model is looked at, evenly spread; the last one is the stage's end."""
    return frozenset(round(steps * (i + 1) / count) for i in range(count))


def held_out_texts(corpus: Path, limit: int) -> dict[str, list[str]]:
    """The same held-out text per domain for every model and for lzma."""
    samples: dict[str, list[Document]] = {d: held_out_sample(corpus, d, limit) for d in held_out_domains(corpus)}
    return {domain: [document.text for document in documents] for domain, documents in samples.items() if documents}


def observe(context: StageContext, model: Transformer, tokenizer: Tokenizer, log: MetricsLog, step: int) -> None:
    """Measure held-out bits per byte and let the model write, for the report's curves and samples."""
    section = context.recipe.pretrain
    texts = held_out_texts(context.inputs["corpus"], section.evaluation_bytes)
    measured = {
        domain: round(bits_per_byte(model, tokenizer, documents, section.length), 4)
        for domain, documents in texts.items()
    }
    log.write("evaluations", {"step": step, "bits_per_byte": measured})
    prompts = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in section.sample_prompts]
    length = min(SAMPLE_TOKENS, section.length)
    written = generate(model, prompts, length, temperature=0.7, stop_ids={tokenizer.eos_id}, seed=context.recipe.seed)
    for prompt, completion in zip(section.sample_prompts, written, strict=True):
        text = tokenizer.decode([t for t in completion.tokens if t != tokenizer.eos_id], continued=True)
        log.write("samples", {"step": step, "prompt": prompt, "text": text})


def final_figures(
    context: StageContext, model: Transformer, tokenizer: Tokenizer, shards: dict[str, TokenShard]
) -> dict[str, Any]:
    """Bits per byte beside lzma's, and how good the drafts of the prediction module are beside a bigram's."""
    section = context.recipe.pretrain
    texts = held_out_texts(context.inputs["corpus"], section.final_bytes)
    with context.progress("held-out text", len(texts)) as bar:
        measured, compressed = {}, {}
        for domain, documents in texts.items():
            measured[domain] = round(bits_per_byte(model, tokenizer, documents, section.length), 4)
            compressed[domain] = round(xz_bits_per_byte(documents), 4)
            bar.advance(1, **{domain: measured[domain]})
    figures: dict[str, Any] = {"bits_per_byte": measured, "xz_bits_per_byte": compressed}
    if model.config.num_nextn_predict_layers:
        short = held_out_texts(context.inputs["corpus"], DRAFT_BYTES)
        successors = bigram_successors([shard.tokens for shard in shards.values()], model.config.vocab_size)
        scores = {d: draft_score(model, tokenizer, t, successors, section.length) for d, t in short.items()}
        total = sum(scores.values(), start=type(next(iter(scores.values())))())
        figures["mtp"] = total.shares()
        figures["mtp_acceptance"] = total.shares()["accepted"]
        figures["mtp_by_domain"] = {domain: score.shares() for domain, score in scores.items()}
    return figures
