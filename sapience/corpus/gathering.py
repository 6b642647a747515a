"""One source from its records to clean documents within its size limit.

The limit is kept while reading: of all documents those with the smallest content hashes stay, so the subset depends
on no order, and no more than the limit is ever in memory.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from sapience.corpus.cleaning import tidy, why_dropped
from sapience.corpus.cutting import cut
from sapience.corpus.documents import Document
from sapience.corpus.language import language_of
from sapience.corpus.sources.reading import RawText, SourceInfo
from sapience.recipe.corpus import CleaningSection, SourceSection
from sapience.run import ProgressTask

MEGABYTE = 1_000_000


@dataclass(slots=True)
class Gathered:
    """What a source gave."""

    info: SourceInfo
    documents: list[Document] = field(default_factory=list)
    """In the order of reading."""
    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Documents by reason."""


class SmallestHashes:
    """Documents with the smallest content hashes whose sizes sum up to at most `limit` bytes of UTF-8."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._heap: list[tuple[int, int, Document]] = []  # largest hash first, then the place in the reading order
        self._present: set[int] = set()
        self._ceiling = 1 << 64
        self._offered = 0

    def refuses(self, document: Document) -> str | None:
        """Why the document cannot get in whatever else may come, or None."""
        key = int(document.id, 16)
        if key >= self._ceiling:
            return "beyond the source's limit"
        return "exact duplicate" if key in self._present else None

    def add(self, document: Document) -> int:
        """Take a document that is not refused; returns how many have to go for it."""
        key, gone = int(document.id, 16), 0
        self._offered += 1
        self._total += len(document.text.encode("utf-8"))
        self._present.add(key)
        heapq.heappush(self._heap, (-key, self._offered, document))
        while self._total > self._limit:
            largest, _, evicted = heapq.heappop(self._heap)
            self._ceiling = -largest
            self._present.discard(-largest)
            self._total -= len(evicted.text.encode("utf-8"))
            gone += 1
        return gone

    def in_reading_order(self) -> list[Document]:
        """The documents that stayed."""
        return [document for _, _, document in sorted(self._heap, key=lambda entry: entry[1])]


def gather(
    section: SourceSection,
    info: SourceInfo,
    records: Iterator[RawText],
    cleaning: CleaningSection,
    bar: ProgressTask,
) -> Gathered:
    """Clean, cut, judge and limit all records of one source."""
    gathered = Gathered(info)
    chosen = SmallestHashes(int(section.limit_megabytes * MEGABYTE))
    for record in records:
        gathered.records += 1
        for text in cut(tidy(record.text, section.kind), section.kind, cleaning.most_characters):
            document = Document(text.strip("\n"), section.domain, "", section.kind, info.name, section.license)
            reason = why_dropped(document.text, section.kind, cleaning) or chosen.refuses(document)
            if reason is None and (section.kind == "text" or section.language):
                language = language_of(document.text)
                document = Document(
                    document.text, section.domain, language, section.kind, info.name, section.license
                )
                if section.language and language != section.language:
                    reason = "wrong language"
            if reason is None:
                gathered.dropped["beyond the source's limit"] += chosen.add(document)
            else:
                gathered.dropped[reason] += 1
        bar.advance(1, records=gathered.records)
    gathered.documents = chosen.in_reading_order()
    gathered.dropped = +gathered.dropped
    return gathered
