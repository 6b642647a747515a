"""The stage `evaluate`: the same measurements on the base model, on the extended one, or on any the recipe
names.

Each model's part is written in one move when it is finished, beside the log of every sample, and taken over
by a restart; so a killed evaluation loses at most one model's work. Where the run has no corpus (a user's
own model, only problems) what needs held-out text is left out. Nothing is drawn at random but by the
recipe's seed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sapience.corpus.documents import Document
from sapience.corpus.shards import TokenShard
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.bits_per_byte import bits_per_byte, xz_bits_per_byte
from sapience.evaluation.held_out import held_out_domains, held_out_sample
from sapience.evaluation.mtp import DraftScore, bigram_successors, draft_score
from sapience.evaluation.needles import NeedleMap, needle_map
from sapience.evaluation.scoring import Score, score_of
from sapience.evaluation.tasks import TaskResult, family_names, family_scores, solve_family
from sapience.model.huggingface import load_model
from sapience.model.transformer import Transformer
from sapience.recipe.errors import UserError
from sapience.recipe.evaluate import EvaluateSection
from sapience.run import ProgressTask, StageContext, read_manifest, resolve_model, write_atomically

_OWN_MODELS = {"base": "pretrain", "extended": "extend"}


@dataclass(frozen=True)
class Measurement:
    """All that is the same for every model."""

    section: EvaluateSection
    window: int
    seed: int
    texts: Mapping[str, list[str]]
    """Held-out texts by domain."""
    fillers: list[str]
    """Held-out texts to hide needles in: prose where there is any, since training hides them in prose."""
    draft_texts: Mapping[str, list[str]]
    """The smaller held-out sample that MTP drafts are checked on."""
    families: list[str]
    token_folder: Path | None
    """Folder of the tokenizer stage: its tokenizer and the training tokens that bigrams are counted from."""


def run_evaluate(context: StageContext) -> dict[str, Any]:
    """Measures every model and returns the figures of all, by model and domain or family. UserError without
    a model."""
    section = context.recipe.evaluate
    models = _models(context)
    measurement = _measurement(context)
    xz = {domain: xz_bits_per_byte(texts) for domain, texts in measurement.texts.items()}
    parts = {}
    for name, folder in models.items():
        part_file = context.folder / f"part-{name}.json"
        mark = _mark(context, name, folder)
        part = _finished_part(part_file, mark)
        if part is None:
            work = 2 * len(measurement.texts) + len(section.needle_samples) + len(measurement.families)
            with context.progress(f"measuring {name}", work) as bar:
                part, samples = measure(folder, measurement, bar)
            lines = "".join(json.dumps({"model": name, **sample}, ensure_ascii=False) + "\n" for sample in samples)
            write_atomically(context.folder / f"samples-{name}.jsonl", lines)
            write_atomically(part_file, json.dumps({"mark": mark, "figures": part}, ensure_ascii=False, indent=1))
        parts[name] = part
    results = {
        key: {name: part[key] for name, part in parts.items() if key in part}
        for key in ("accuracy", "interval", "families", "bits_per_byte", "needles", "needle_cells", "mtp")
    }
    results["xz_bits_per_byte"] = xz
    write_atomically(context.folder / "results.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    figures = {key: value for key, value in results.items() if value and key != "needle_cells"}
    return {**figures, "problems": section.problems_per_family * len(measurement.families)}


def measure(folder: Path, measurement: Measurement, bar: ProgressTask) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All figures of one model folder, JSON-able, and a record of every sample."""
    section = measurement.section
    model = load_model(folder, _device(section.device)).eval()
    tokenizer_file, bigrams = _tokenizer_file(folder, measurement.token_folder)
    tokenizer = Tokenizer.load(tokenizer_file)
    figures: dict[str, Any] = {}
    samples: list[dict[str, Any]] = []
    if measurement.texts:
        figures["bits_per_byte"] = {}
        for domain, texts in measurement.texts.items():
            value = bits_per_byte(model, tokenizer, texts, measurement.window, section.batch_tokens)
            figures["bits_per_byte"][domain] = value
            bar.advance(1, doing=f"bits per byte, {domain}")
        drafts = _drafts(model, tokenizer, measurement, bigrams, bar)
        if drafts:
            figures["mtp"] = drafts
        found: list[NeedleMap] = []
        for multiple, count in sorted(section.needle_samples.items()):
            length = multiple * measurement.window
            depths, seed, batch = section.needle_depths, measurement.seed, section.batch_tokens
            found.append(needle_map(model, tokenizer, measurement.fillers, {length: count}, depths, seed, batch))
            bar.advance(1, doing=f"needles at {length} tokens")
        needles = NeedleMap(tuple(result for part in found for result in part.results))
        figures["needles"] = {str(length): share for length, share in needles.by_length().items()}
        figures["needle_cells"] = needles.cells()
        samples += [{"kind": "needle", **result.record()} for result in needles.results]
    answers: list[TaskResult] = []
    for family in measurement.families:
        answers += solve_family(
            model,
            tokenizer,
            family,
            section.problems_per_family,
            shots=section.shots,
            window=measurement.window,
            answer_tokens=section.answer_tokens,
            seed=measurement.seed,
        )
        bar.advance(1, doing=f"problems, {family}")
    if answers:
        overall = score_of([answer.correct for answer in answers])
        figures["accuracy"], figures["interval"] = overall.accuracy, list(overall.interval)
        figures["families"] = {family: _score_record(score) for family, score in family_scores(answers).items()}
        samples += [{"kind": "problem", **answer.record()} for answer in answers]
    return figures, samples


def _models(context: StageContext) -> dict[str, Path]:
    """Name -> model folder."""
    named = context.recipe.evaluate.models
    if named:
        return {name: resolve_model(text) for name, text in named.items()}
    models = {name: context.inputs[stage] / "model" for name, stage in _OWN_MODELS.items() if stage in context.inputs}
    if not models:
        raise UserError(
            "there is nothing to evaluate: run pretrain or extend first, or name models under evaluate.models"
        )
    return models


def _measurement(context: StageContext) -> Measurement:
    section = context.recipe.evaluate
    corpus = context.inputs.get("corpus")

    def held_out(kilobytes: int) -> dict[str, list[Document]]:
        if corpus is None or kilobytes == 0:
            return {}
        samples = {d: held_out_sample(corpus, d, 1024 * kilobytes) for d in held_out_domains(corpus)}
        return {domain: documents for domain, documents in samples.items() if documents}

    documents = held_out(section.bits_per_byte_kilobytes)
    everything = [document for sample in documents.values() for document in sample]
    prose = [document for document in everything if document.kind == "text"]
    return Measurement(
        section=section,
        window=section.window or context.recipe.pretrain.length,
        seed=context.recipe.seed,
        texts=_texts(documents),
        fillers=[document.text for document in prose or everything],
        draft_texts=_texts(held_out(section.mtp_kilobytes)),
        families=family_names(section.families) if section.problems_per_family else [],
        token_folder=context.inputs.get("tokenizer"),
    )


def _texts(documents: Mapping[str, list[Document]]) -> dict[str, list[str]]:
    return {domain: [document.text for document in sample] for domain, sample in documents.items()}


def _drafts(
    model: Transformer, tokenizer: Tokenizer, measurement: Measurement, bigrams: bool, bar: ProgressTask
) -> dict[str, Any]:
    """Draft shares by domain and over all; empty where the model has no MTP or there is no text to check.

    `bigrams` is false where the run's training tokens are not in this model's vocabulary: then no bigram is
    measured.
    """
    training_tokens = _training_tokens(measurement.token_folder) if bigrams else []
    successors = bigram_successors(training_tokens, model.config.vocab_size)
    domains: dict[str, DraftScore] = {}
    for domain in measurement.texts:
        texts = measurement.draft_texts.get(domain, [])
        batch = measurement.section.batch_tokens
        score = draft_score(model, tokenizer, texts, successors, measurement.window, batch)
        if score.positions:
            domains[domain] = score
        bar.advance(1, doing=f"MTP drafts, {domain}")
    if not domains:
        return {}

    def shares(score: DraftScore) -> dict[str, float]:
        return {k: v for k, v in score.shares().items() if training_tokens or not k.startswith("bigram")}

    overall = sum(domains.values(), DraftScore())
    return {
        "overall": {**shares(overall), "positions": overall.positions},
        "domains": {domain: shares(score) for domain, score in domains.items()},
    }


def _tokenizer_file(folder: Path, run_folder: Path | None) -> tuple[Path, bool]:
    """The model's tokenizer.json, or the run's where it has none; and whether it is the run's."""
    own = folder / "tokenizer.json"
    runs = run_folder / "tokenizer.json" if run_folder is not None else None
    if own.is_file():
        return own, runs is not None and runs.read_bytes() == own.read_bytes()
    if runs is None:
        raise UserError(f"{folder} has no tokenizer.json and the run has none: put the model's tokenizer.json there")
    return runs, True


def _training_tokens(folder: Path | None) -> list[Any]:
    """The training tokens of every domain, as the tokenizer stage left them."""
    if folder is None:
        return []
    return [TokenShard.open(path.with_suffix("")).tokens for path in sorted((folder / "tokens").glob("*.bin"))]


def _score_record(score: Score) -> dict[str, Any]:
    return {"accuracy": score.accuracy, "interval": list(score.interval), "problems": score.problems}


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("evaluate.device is cuda, but PyTorch sees no GPU here: use auto or cpu")
    return torch.device("cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda")


def _mark(context: StageContext, name: str, folder: Path) -> str:
    """What a finished part must share with this run to be taken over: amounts and the model's origin."""
    made = read_manifest(folder.parent)
    origin = made.fingerprint if made is not None else str(folder.resolve())
    return json.dumps([name, context.recipe.seed, context.recipe.evaluate.model_dump(mode="json"), origin])


def _finished_part(path: Path, mark: str) -> dict[str, Any] | None:
    """The figures in a part file, unless it is missing or belongs to another model or other amounts."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record["figures"]) if record["mark"] == mark else None
    except (OSError, ValueError, KeyError):
        return None
