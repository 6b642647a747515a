"""The held-out text that models are compared on.

One rule chooses it, so that every model, every moment of training and lzma see the same bytes: documents in
the order of their content hash (which says nothing about their subject), whole as far as the limit goes. A
document gives at most a quarter of the limit, from its beginning, so that a single long one cannot stand for
its domain. It does not score anything.
"""

import heapq
from dataclasses import replace
from pathlib import Path

from sapience.corpus.documents import Document, read_documents


def held_out_domains(folder: Path) -> list[str]:
    """Names of the domains with held-out text in a corpus stage's folder, sorted."""
    return sorted(path.name.removesuffix(".jsonl.zst") for path in (folder / "heldout").glob("*.jsonl.zst"))


def held_out_sample(folder: Path, domain: str, limit_bytes: int) -> list[Document]:
    """Held-out documents of `domain` with at most `limit_bytes` bytes of UTF-8 in all; the last is cut at
    the limit.

    `folder` is the corpus stage's folder. Memory stays near the limit, however many documents there are. The
    sample of a smaller limit is not a part of the larger one's, since the share of one document differs.
    """
    share = max(1, limit_bytes // 4)
    kept: list[tuple[int, int, Document]] = []  # a heap whose first entry is the document that comes last in the order
    total = 0
    for number, document in enumerate(read_documents(folder / "heldout" / f"{domain}.jsonl.zst")):
        order = int(document.id, 16)
        if total >= limit_bytes and order >= -kept[0][0]:
            continue
        opening = replace(document, text=opening_bytes(document.text, share))
        heapq.heappush(kept, (-order, -number, opening))
        total += len(opening.text.encode())
        while total - len(kept[0][2].text.encode()) >= limit_bytes:
            total -= len(heapq.heappop(kept)[2].text.encode())
    sample: list[Document] = []
    room = limit_bytes
    for _, _, document in sorted(kept, key=lambda entry: (-entry[0], -entry[1])):
        text = opening_bytes(document.text, room)
        if text:
            sample.append(replace(document, text=text))
            room -= len(text.encode())
    return sample


def opening_bytes(text: str, limit: int) -> str:
    """The longest beginning of `text` that takes at most `limit` bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore")
