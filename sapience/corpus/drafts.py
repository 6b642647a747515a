"""Every written source cleaned on its own, before sources are compared: the work worth keeping on a restart.

A draft is a file of documents with, beside it, their identities, sizes and MinHash signatures (memory-mapped later, so
that comparing sources takes little memory) and an account of what was dropped. The account is written last; a draft
without one is made again.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapience.corpus.decontamination import HeldOutQuestions
from sapience.corpus.documents import Document, read_documents, write_documents
from sapience.corpus.duplicates import PERMUTATIONS, signatures
from sapience.corpus.ngrams import WordRuns
from sapience.corpus.normalizing import language_of, normalized, reason_to_drop, without_repeated_lines
from sapience.corpus.reading import read_or_explain
from sapience.corpus.records import Reading, Record, SourceMissing
from sapience.corpus.splitting import split_code, split_prose
from sapience.recipe.corpus import CorpusSection, InstalledSection, TextSourceSection
from sapience.run import ProgressTask, write_atomically

BATCH_BYTES = 2_000_000
"""Clean text that is hashed at a time."""


@dataclass
class Account:
    """What came of one source."""

    records: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Documents by reason."""
    set_aside: dict[str, int] = field(default_factory=dict)
    """Records that could not be read, by reason."""
    places: list[dict[str, str]] = field(default_factory=list)
    version: str = ""
    missing: str = ""
    """Why the source was left out."""
    held_out: dict[str, int] = field(default_factory=dict)
    """Documents dropped because they hold a held-out problem, by the problem's set."""


@dataclass(frozen=True)
class Draft:
    """A source's clean documents on disk."""

    section: TextSourceSection
    path: Path
    account: Account

    def documents(self) -> Iterator[Document]:
        """Streamed, in the order of reading."""
        return read_documents(self.path)

    def identities(self) -> NDArray[np.uint64]:
        """[documents]: the identity's 16 hexadecimal digits as a number."""
        loaded: NDArray[np.uint64] = np.load(_beside(self.path, "identities"))
        return loaded

    def sizes(self) -> NDArray[np.int64]:
        """[documents]: bytes of UTF-8."""
        loaded: NDArray[np.int64] = np.load(_beside(self.path, "sizes"))
        return loaded

    def signatures(self) -> NDArray[np.uint32]:
        """[documents, PERMUTATIONS], memory-mapped."""
        loaded: NDArray[np.uint32] = np.load(_beside(self.path, "signatures"), mmap_mode="r")
        return loaded


def make_draft(
    section: TextSourceSection,
    corpus: CorpusSection,
    held_out: HeldOutQuestions,
    folder: Path,
    bar: ProgressTask,
) -> Draft:
    """Read, clean and sketch one source, or take up the finished draft in `folder`.

    Raises UserError where a source that is not optional cannot be had or holds nothing readable.
    """
    path = folder / f"{section.name}.jsonl.zst"
    account_path = _beside(path, "account").with_suffix(".json")
    if account_path.is_file():
        return Draft(section, path, Account(**json.loads(account_path.read_text(encoding="utf-8"))))
    making = _Making(section, corpus, held_out, bar)
    write_documents(path, making.documents())
    for name, array in making.arrays().items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_atomically(_beside(path, name), buffer.getvalue())
    account = making.account()
    write_atomically(account_path, json.dumps(asdict(account), ensure_ascii=False))
    return Draft(section, path, account)


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.jsonl.zst')}.{name}.npy")


class _Making:
    """One source on its way from records to documents."""

    def __init__(
        self, section: TextSourceSection, corpus: CorpusSection, held_out: HeldOutQuestions, bar: ProgressTask
    ) -> None:
        self.section, self.corpus, self.held_out, self.bar = section, corpus, held_out, bar
        self.reading = Reading(int(corpus.record_limit_mb * 1e6))
        self.dropped: Counter[str] = Counter()
        self.held_out_sets: Counter[str] = Counter()
        self.records = 0
        self.missing = ""
        self.seen_lines: dict[int, int] = {}
        self.left = int(section.limit_mb * 1e6) if section.limit_mb else 1 << 62
        self._identities: list[NDArray[np.uint64]] = []
        self._sizes: list[NDArray[np.int64]] = []
        self._signatures: list[NDArray[np.uint32]] = []

    def documents(self) -> Iterator[Document]:
        batch: list[Document] = []
        held = 0
        try:
            for record in read_or_explain(self.section, self.reading):
                self.records += 1
                for document in self._clean(record):
                    size = len(document.text.encode())
                    batch.append(document)
                    held, self.left = held + size, self.left - size
                if held >= BATCH_BYTES:
                    yield from self._sketched(batch)
                    batch, held = [], 0
                if self.left <= 0:
                    break
        except SourceMissing as error:
            self.missing = str(error)
        yield from self._sketched(batch)

    def _clean(self, record: Record) -> Iterator[Document]:
        """The record's documents that are worth keeping."""
        section, corpus = self.section, self.corpus
        docstrings = isinstance(section, InstalledSection) and section.part == "docstrings"
        text = normalized(record.text, keeps_blanks=section.kind == "code" or docstrings)
        if section.repeated_lines is not None:
            text = without_repeated_lines(text, self.seen_lines, section.repeated_lines)
        if section.kind == "code":
            pieces = split_code(text, record.place, corpus.document_bytes)
        else:
            pieces = split_prose(text, corpus.document_bytes if docstrings else corpus.text_bytes)
        for piece in pieces:
            reason = reason_to_drop(piece, section.kind, corpus.shortest)
            language = section.language or ""
            if reason is None and section.kind == "text":
                detected, certainty = language_of(piece)
                if section.language and detected != section.language and certainty >= corpus.language_certainty:
                    reason = "wrong language"
                language = section.language or detected
            if reason is not None:
                self.dropped[reason] += 1
                continue
            yield Document(piece, section.domain, language, section.kind, section.name, section.license)

    def _sketched(self, batch: list[Document]) -> Iterator[Document]:
        """The batch's documents that hold no held-out problem; their identities and signatures are kept."""
        if not batch:
            return
        runs = WordRuns([document.text for document in batch])
        sets = self.held_out.set_found_in(runs)
        clean = sets < 0
        self.held_out_sets.update(self.held_out.sets[number] for number in sets[~clean].tolist())
        self.dropped["held-out problem"] += int((~clean).sum())
        kept = [document for document, good in zip(batch, clean, strict=True) if good]
        self._identities.append(np.array([int(document.id, 16) for document in kept], np.uint64))
        self._sizes.append(np.array([len(document.text.encode()) for document in kept], np.int64))
        self._signatures.append(signatures(runs)[clean])
        self.bar.advance(0, MB=f"{sum(int(sizes.sum()) for sizes in self._sizes) / 1e6:.1f}")
        yield from kept

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        return {
            "identities": np.concatenate([np.zeros(0, np.uint64), *self._identities]),
            "sizes": np.concatenate([np.zeros(0, np.int64), *self._sizes]),
            "signatures": np.concatenate([np.zeros((0, PERMUTATIONS), np.uint32), *self._signatures]),
        }

    def account(self) -> Account:
        dropped = {reason: count for reason, count in sorted(self.dropped.items()) if count}
        reading = self.reading
        set_aside = dict(sorted(reading.counts.items()))
        held_out = dict(sorted(self.held_out_sets.items()))
        return Account(self.records, dropped, set_aside, reading.places, reading.version, self.missing, held_out)
