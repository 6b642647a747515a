"""What is measured on held-out text: bits per byte by domain, MTP drafts, needles.

Base models are measured on the whole sample. Assistants are measured on its beginning, whole documents of it, and base
models on that beginning too, so that the bits per byte before and after post-training are those of the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.corpus.documents import Document
from sapience.corpus.shards import TokenShard
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.bits_per_byte import bits_per_byte
from sapience.evaluation.held_out import held_out_domains, held_out_sample
from sapience.evaluation.mtp import DraftScore, bigram_successors, draft_score
from sapience.evaluation.needles import NeedleMap, needle_map
from sapience.model.transformer import Transformer
from sapience.recipe.evaluate import EvaluateSection
from sapience.run import ProgressTask


@dataclass(frozen=True)
class HeldOutText:
    """All held-out text of an evaluation, the same for every model."""

    texts: Mapping[str, list[str]]
    """By domain."""
    beginnings: Mapping[str, int]
    """How many texts of each domain, from the first, assistants are measured on."""
    fillers: list[str]
    """Texts to hide needles in: prose where there is any, since training hides them in prose."""
    draft_texts: Mapping[str, list[str]]
    """The smaller sample that MTP drafts are checked on."""

    def beginning(self, domain: str) -> list[str]:
        """What assistants are measured on."""
        return self.texts[domain][: self.beginnings[domain]]


def held_out_text(corpus: Path | None, section: EvaluateSection, assistants: bool) -> HeldOutText:
    """The samples from a corpus stage's folder; empty without one. `assistants`: whether any is to be measured."""

    def sample(kilobytes: int) -> dict[str, list[Document]]:
        if corpus is None or kilobytes == 0:
            return {}
        samples = {d: held_out_sample(corpus, d, 1024 * kilobytes) for d in held_out_domains(corpus)}
        return {domain: documents for domain, documents in samples.items() if documents}

    documents = sample(section.bits_per_byte_kilobytes)
    everything = [document for sample in documents.values() for document in sample]
    prose = [document for document in everything if document.kind == "text"]
    texts = {domain: [d.text for d in found] for domain, found in documents.items()}
    limit = 1024 * section.chat_kilobytes if assistants else 0
    return HeldOutText(
        texts=texts,
        beginnings={domain: beginning_of(found, limit) for domain, found in texts.items()},
        fillers=[document.text for document in prose or everything],
        draft_texts={domain: [d.text for d in found] for domain, found in sample(section.mtp_kilobytes).items()},
    )


def beginning_of(texts: Sequence[str], limit: int) -> int:
    """How many texts it takes to reach `limit` bytes; all where they do not."""
    total = 0
    for number, text in enumerate(texts):
        if total >= limit:
            return number
        total += len(text.encode())
    return len(texts)


def domain_bits(
    model: Transformer, tokenizer: Tokenizer, held_out: HeldOutText, domain: str, window: int, batch_tokens: int
) -> tuple[float, float | None]:
    """Bits per byte on all texts of a domain and on its beginning, None where there is no beginning; read once."""
    parts = [held_out.beginning(domain), held_out.texts[domain][held_out.beginnings[domain] :]]
    sizes = [sum(len(text.encode()) for text in part) for part in parts]
    bits = [
        bits_per_byte(model, tokenizer, part, window, batch_tokens) if size else 0.0
        for part, size in zip(parts, sizes, strict=True)
    ]
    whole = (bits[0] * sizes[0] + bits[1] * sizes[1]) / sum(sizes)
    return whole, bits[0] if sizes[0] else None


def needle_figures(
    model: Transformer,
    tokenizer: Tokenizer,
    fillers: Sequence[str],
    section: EvaluateSection,
    window: int,
    seed: int,
    bar: ProgressTask,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The needle map by length and by cell, and a record of every needle."""
    found: list[NeedleMap] = []
    for multiple, count in sorted(section.needle_samples.items()):
        length = multiple * window
        depths = section.needle_depths
        found.append(needle_map(model, tokenizer, fillers, {length: count}, depths, seed, section.batch_tokens))
        bar.advance(1, doing=f"needles at {length} tokens")
    needles = NeedleMap(tuple(result for part in found for result in part.results))
    by_length = {str(length): share for length, share in needles.by_length().items()}
    records = [{"kind": "needle", **result.record()} for result in needles.results]
    return {"needles": by_length, "needle_cells": needles.cells()}, records


def draft_figures(
    model: Transformer,
    tokenizer: Tokenizer,
    held_out: HeldOutText,
    token_folder: Path | None,
    window: int,
    batch_tokens: int,
    bar: ProgressTask,
) -> dict[str, Any]:
    """Draft shares by domain and over all; empty where the model has no MTP or there is no text to check.

    Without the folder of training tokens in this model's vocabulary no bigram is measured.
    """
    training_tokens = _training_tokens(token_folder)
    successors = bigram_successors(training_tokens, model.config.vocab_size)
    domains: dict[str, DraftScore] = {}
    for domain in held_out.texts:
        texts = held_out.draft_texts.get(domain, [])
        score = draft_score(model, tokenizer, texts, successors, window, batch_tokens)
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


def _training_tokens(folder: Path | None) -> list[Any]:
    """The training tokens of every domain, as the tokenizer stage left them."""
    if folder is None:
        return []
    return [TokenShard.open(path.with_suffix("")).tokens for path in sorted((folder / "tokens").glob("*.bin"))]
