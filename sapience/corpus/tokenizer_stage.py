"""The stage `tokenizer`: learn the vocabulary (or take the user's), then write every domain as token shards."""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from sapience.corpus.documents import Document, read_documents
from sapience.corpus.shards import write_shard
from sapience.corpus.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer, train_tokenizer
from sapience.recipe import Recipe, UserError
from sapience.run import ProgressTask, StageContext

BATCH = 256
"""Documents encoded at a time."""


def run_tokenizer(context: StageContext) -> dict[str, Any]:
    """tokenizer.json, and `tokens/DOMAIN` for every domain that has training documents."""
    section = context.recipe.tokenizer
    train = context.inputs["corpus"] / "train"
    files = sorted(train.glob("*.jsonl.zst"))
    if not files:
        raise UserError(f"{train} has no documents: the corpus stage made nothing to learn a tokenizer from")
    if section.path is not None:
        tokenizer = Tokenizer.load(Path(section.path).expanduser())
    else:
        with context.progress("learning the vocabulary", None) as bar:
            sample = _sample(context.recipe, context.inputs["corpus"], files, bar)
            tokenizer = train_tokenizer(sample, section.vocab_size, section.digits)
    tokenizer.save(context.folder)
    encoder = TrainingEncoder(tokenizer, section.split_combined, section.fill_in_middle, context.recipe.seed)
    tokens: dict[str, int] = {}
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with context.progress("encoding", len(files)) as bar:
        for path in files:
            domain = path.name.removesuffix(".jsonl.zst")
            counted = _counted(encoder.documents(read_documents(path)), sizes)
            tokens[domain] = write_shard(context.folder / "tokens" / domain, counted, tokenizer.vocab_size)
            bar.advance(1, tokens=sum(tokens.values()))
    per_token = {name: round(read / max(1, ids), 3) for name, (read, ids) in sorted(sizes.items())}
    return {"vocab_size": tokenizer.vocab_size, "tokens": tokens, "bytes_per_token": per_token}


def _sample(recipe: Recipe, corpus: Path, files: list[Path], bar: ProgressTask) -> Iterator[str]:
    """Text of every domain in the proportion of the mixture, chosen by the documents' content hash."""
    weights = recipe.corpus.weights() | recipe.pretrain.mixture
    sizes: Counter[str] = Counter()
    for source in json.loads((corpus / "provenance.json").read_text(encoding="utf-8"))["sources"]:
        sizes[source["domain"]] += source["bytes"]
    names = {path: path.name.removesuffix(".jsonl.zst") for path in files}
    total = sum(weights.get(name, 1.0) for name in names.values())
    for path, name in names.items():
        wanted = recipe.tokenizer.sample_mb * 1e6 * weights.get(name, 1.0) / total
        limit = int(min(1.0, wanted / max(1, sizes[name])) * 0xFFFFFFFF)
        for document in read_documents(path):
            if int(document.id[-8:], 16) <= limit:
                yield document.text
                bar.advance(1)


def _counted(documents: Iterator[tuple[Document, list[int]]], sizes: dict[str, list[int]]) -> Iterator[list[int]]:
    """Pass ids on, adding up bytes and tokens by language (by kind where there is no language)."""
    for document, ids in documents:
        entry = sizes[document.language or document.kind]
        entry[0] += len(document.text.encode("utf-8"))
        entry[1] += len(ids)
        yield ids


class TrainingEncoder:
    """Documents to ids as they are trained on: bos, text, eos; rearranged and split at random by document."""

    def __init__(self, tokenizer: Tokenizer, split_share: float, fim_share: float, seed: int) -> None:
        self.tokenizer = tokenizer
        self.split_share, self.fim_share, self.seed = split_share, fim_share, seed
        self.fim = [tokenizer.special.get(name) for name in (FIM_BEGIN, FIM_HOLE, FIM_END)]
        self.parts: dict[int, list[int]] = {}
        for index in range(tokenizer.vocab_size) if split_share > 0 else ():
            cut = combined_cut(tokenizer.token_bytes(index))
            if cut and index not in tokenizer.special.values():
                value = tokenizer.token_bytes(index)
                halves = [value[:cut].decode("utf-8", "replace"), value[cut:].decode("utf-8", "replace")]
                self.parts[index] = [token for half in halves for token in tokenizer.encode(half)]

    def documents(self, documents: Iterator[Document]) -> Iterator[tuple[Document, list[int]]]:
        """Each document with its ids; a pure function of (document, seed)."""
        while batch := list(islice(documents, BATCH)):
            pieces = [self._pieces(document) for document in batch]
            encoded = iter(self.tokenizer.encode_batch([text for texts in pieces for text in texts]))
            for document, texts in zip(batch, pieces, strict=True):
                yield document, self._joined(document, [next(encoded) for _ in texts])

    def _pieces(self, document: Document) -> list[str]:
        """The text whole, or as prefix, suffix, middle (PSM)."""
        if document.kind != "code" or None in self.fim or len(document.text) < 3:
            return [document.text]
        rng = Random(f"fim {self.seed} {document.id}")
        if rng.random() >= self.fim_share:
            return [document.text]
        first, second = sorted(rng.sample(range(len(document.text) + 1), 2))
        return [document.text[:first], document.text[second:], document.text[first:second]]

    def _joined(self, document: Document, encoded: list[list[int]]) -> list[int]:
        if len(encoded) == 3:
            ids = [token for mark, part in zip(self.fim, encoded, strict=True) for token in (mark, *part)]
        else:
            ids = list(encoded[0])
        if self.parts:
            rng = Random(f"split {self.seed} {document.id}")
            ids = [
                part
                for token in ids
                for part in (self.parts[token] if token in self.parts and rng.random() < self.split_share else (token,))
            ]
        return [self.tokenizer.bos_id, *ids, self.tokenizer.eos_id]  # type: ignore[list-item]


def combined_cut(token: bytes) -> int:
    """Byte at which a token of punctuation or symbols followed by line ends is cut in two; 0 for any other token."""
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return 0
    body = text.rstrip("\r\n")
    marks = body.lstrip(" ")
    combined = marks and len(body) < len(text) and all(unicodedata.category(mark)[0] in "PS" for mark in marks)
    return len(body.encode()) if combined else 0
