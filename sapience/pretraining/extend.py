"""The stage `extend`: a longer context in phases, by YaRN (DeepSeek-V3 report, section 4.3).

The first phase switches YaRN on, by V3 with one scale for all phases; each phase trains at its length on the pre-training
mixture and on documents that hide needles. A needle map is drawn before the first phase and after each.
"""

import json
from typing import Any

from sapience.corpus.documents import read_documents
from sapience.corpus.shards import TokenShard, write_shard
from sapience.corpus.stream import TokenStream
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.held_out import held_out_domains, held_out_sample
from sapience.evaluation.needles import NeedleMap, needle_map
from sapience.model.huggingface import load_model, save_model
from sapience.model.transformer import Transformer
from sapience.pretraining.mixture import mixture, open_shards
from sapience.pretraining.needle_documents import needle_token_documents
from sapience.pretraining.rows import StreamRows
from sapience.pretraining.shared_training import share_training
from sapience.recipe.extend import ExtendSection, PhaseSection
from sapience.recipe.model import ModelSection, RopeScaling
from sapience.recipe.optimization import PredictionSection, ScheduleSection
from sapience.run import StageContext, resolve_model, write_atomically
from sapience.training.device import placed
from sapience.training.loop import Saving, Training
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import plan_steps

NEEDLE_DOMAIN = "needles"
FILLER_KINDS = ("text",)
FILLER_DOCUMENTS = 2000


def run(context: StageContext) -> dict[str, Any]:
    """Go through the phases; the model of each is kept in `phase-N/`, the last one in `model/`.

    Where processes share the stage, one of them measures and writes, and the others wait meanwhile.
    """
    section, folder, team = context.recipe.extend, context.folder, context.team
    leads = team is None or team.leads
    tokenizer = Tokenizer.load(context.inputs["tokenizer"])
    source = resolve_model(section.model) if section.model is not None else context.inputs["pretrain"] / "model"
    model = placed(load_model(source), section)
    base_length = trained_length(model.config)
    longest = section.phases[-1].factor
    lengths = [base_length, *(base_length * phase.factor for phase in section.phases)]
    log = MetricsLog(folder)
    maps = {}
    if leads:
        maps["before"] = _measured(context, "before", model, tokenizer, lengths)
        untrained = placed(stretched(model, section, section.phases[0].factor, base_length), section)
        maps["untrained"] = _measured(context, "untrained", untrained, tokenizer, lengths)
    offset = 0
    tokens = 0
    seconds = 0.0
    for number, phase in enumerate(section.phases, start=1):
        done = folder / f"phase-{number}"
        finished = (done / "config.json").is_file()
        if not (finished if team is None else team.agree(finished)):
            longer = stretched(model, section, phase.factor, base_length)
            trained, counters = _train(context, longer, tokenizer, log, number, phase, base_length, offset)
            if trained is not None:
                done.mkdir(exist_ok=True)
                write_atomically(done / "counters.json", json.dumps(counters))
                save_model(trained, done, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
            if team is not None:
                team.agree(None)
        model = placed(load_model(done), section)
        counters = json.loads((done / "counters.json").read_text(encoding="utf-8"))
        offset += phase.steps
        tokens += counters["tokens"]
        seconds += counters["seconds"]
        name = f"phase {number}"
        if leads:
            maps[name] = _measured(context, name, model, tokenizer, lengths)
    log.close()
    if not leads:
        return {}
    write_atomically(
        folder / "needles.jsonl",
        "".join(json.dumps({"moment": name, **cell}) + "\n" for name, cells in maps.items() for cell in cells),
    )
    save_model(model, folder / "model", tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(folder / "model")
    first = base_length * section.phases[0].factor
    return {
        "needle_factor": section.phases[0].factor,
        "needle_before": _accuracy(maps["before"], first),
        "needle_untrained": _accuracy(maps["untrained"], first),
        "needle_after": _accuracy(maps["phase 1"], first),
        "needles": {name: {length: _accuracy(cells, length) for length in lengths} for name, cells in maps.items()},
        "context": base_length * longest,
        "tokens": tokens,
        "training_seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
    }


def trained_length(config: ModelSection) -> int:
    """The context that the rotary frequencies were trained at; of a model with YaRN not the one it was stretched to."""
    scaling = config.rope_scaling
    return scaling.original_max_position_embeddings if scaling else config.max_position_embeddings


def stretched(model: Transformer, section: ExtendSection, factor: int, original_length: int) -> Transformer:
    """The same weights with YaRN set for a phase that multiplies the context by `factor`, not placed; nothing else changes.

    What has been stretched before keeps its YaRN, whose factor may only grow.
    """
    wanted = section.scaling_factor or factor
    before = model.config.rope_scaling
    if before is not None:
        scaling = before.model_copy(update={"factor": max(before.factor, wanted)})
    else:
        scaling = RopeScaling(
            factor=wanted,
            original_max_position_embeddings=original_length,
            beta_fast=section.beta_fast,
            beta_slow=section.beta_slow,
            mscale=section.mscale,
            mscale_all_dim=section.mscale,
        )
    config = model.config.model_copy(
        update={"rope_scaling": scaling, "max_position_embeddings": int(original_length * scaling.factor)}
    )
    longer = Transformer(config)
    longer.load_state_dict(model.state_dict())
    return longer


def _train(
    context: StageContext,
    model: Transformer,
    tokenizer: Tokenizer,
    log: MetricsLog,
    number: int,
    phase: PhaseSection,
    base_length: int,
    offset: int,
) -> tuple[Transformer | None, dict[str, Any]]:
    """One phase, resumable: the trained model, on the process that writes, and figures. The model given is used up."""
    recipe, section = context.recipe, context.recipe.extend
    length = base_length * phase.factor
    stream = _stream(context, tokenizer, number, phase, length)
    schedule = ScheduleSection(
        peak=phase.peak,
        warmup=phase.warmup,
        plateau_end=max(phase.warmup, 1 - phase.decay),
        cosine_end=1.0,
        tail_start=1.0,
        floor=0.1,
    )
    prediction = PredictionSection(weight=section.prediction_weight, final_weight=section.prediction_weight)
    objective = NextTokens(section.prediction_weight, section.balance.alpha)
    plan = plan_steps(phase.steps, phase.batch, schedule, section.balance, prediction)
    rows, layout = [step.rows for step in plan], recipe.parallel.extending
    shared = share_training(model, objective, section, rows, phase.batch.micro_rows, layout, context.team)
    training = Training(
        model=shared.model,
        executor=shared.executor,
        objective=objective,
        optimizer=OptimizerSet(shared.model, section.optimizer, shared.optimized),
        source=StreamRows(stream, phase.batch.micro_rows, section.isolate_documents, shared.cut),
        plan=plan,
        saving=Saving(context.folder / f"checkpoints-{number}", section.checkpoint_every, section.keep_checkpoints),
        log=log,
        log_every=section.log_every,
        note={"phase": f"extend ×{phase.factor}"},
        step_offset=offset,
        spread=shared.spread,
    )
    with context.progress(f"extend ×{phase.factor} to {length} tokens", phase.steps) as bar:
        bar.advance(training.resume())
        training.on_step = lambda step, figures: bar.advance(1, **figures)
        counters = training.run()
    figures = {
        "tokens": counters.tokens, "seconds": counters.seconds, "stream": counters.stream, "seed": recipe.seed,
    }  # fmt: skip
    return shared.whole_model(), figures


def _stream(context: StageContext, tokenizer: Tokenizer, number: int, phase: PhaseSection, length: int) -> TokenStream:
    """The pre-training mixture at the longer length, with a share of needle documents."""
    section, recipe = context.recipe.extend, context.recipe
    shards: dict[str, TokenShard] = open_shards(context.inputs["tokenizer"])
    weights = mixture(recipe, shards)
    if section.needles.share > 0:
        path = context.folder / f"needles-{number}"
        if context.team is None or context.team.leads:
            written = needle_token_documents(
                tokenizer, _fillers(context), length + 1, phase.factor, section.needles, recipe.seed
            )
            write_shard(path, written, tokenizer.vocab_size)
        if context.team is not None:
            context.team.agree(None)
        shards[NEEDLE_DOMAIN] = TokenShard.open(path)
        total = sum(weights.values())
        weights = {name: weight / total * (1 - section.needles.share) for name, weight in weights.items()}
        weights[NEEDLE_DOMAIN] = section.needles.share
    return TokenStream(shards, weights, length, recipe.seed + number)


def _fillers(context: StageContext) -> list[str]:
    """Real training text to hide needles in."""
    texts: list[str] = []
    for path in sorted((context.inputs["corpus"] / "train").glob("*.jsonl.zst")):
        for count, document in enumerate(read_documents(path)):
            if document.kind not in FILLER_KINDS or count >= FILLER_DOCUMENTS:
                break
            texts.append(document.text)
    return texts


def _measured(
    context: StageContext, moment: str, model: Transformer, tokenizer: Tokenizer, lengths: list[int]
) -> list[dict[str, Any]]:
    """The needle map of a moment, measured once and kept, so that a restart does not measure it again."""
    path = context.folder / f"map-{moment.replace(' ', '-')}.json"
    if path.is_file():
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return cells
    section = context.recipe.extend.needles
    corpus = context.inputs["corpus"]
    fillers = [
        document.text
        for domain in held_out_domains(corpus)
        for document in held_out_sample(corpus, domain, 1 << 17)
        if document.kind in FILLER_KINDS
    ]
    depths = [i / max(1, section.depths - 1) for i in range(section.depths)]
    cells = []
    with context.progress(f"needle map, {moment}", len(lengths)) as bar:
        for length in lengths:
            drawn: NeedleMap = needle_map(
                model, tokenizer, fillers, {length: section.trials}, depths, context.recipe.seed
            )
            cells += drawn.cells()
            bar.advance(1)
    write_atomically(path, json.dumps(cells))
    return cells


def _accuracy(cells: list[dict[str, Any]], length: int) -> float:
    chosen = [cell["accuracy"] for cell in cells if cell["length"] == length]
    return round(sum(chosen) / len(chosen), 4) if chosen else 0.0
