"""Which documents nobody trains on.

The choice hangs on the document's content, not on its place or source, so more sources or another order move no
document to the other side. It is made after deduplication, when of every group of near duplicates one member is
left: no document in training resembles a held-out one.
"""

import hashlib
from collections.abc import Sequence

from sapience.corpus.documents import Document


def place(document: Document, purpose: str) -> float:
    """A number in [0, 1) from the document's content, another one for every purpose.

    The purpose keeps choices independent: a source's subset is chosen by content hash too.
    """
    digest = hashlib.sha256(f"{purpose}:{document.id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_held_out(documents: Sequence[Document], share: float) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents of one domain, both in the order of their places.

    About `share` of the documents are held out: at least one where there are two or more, never all.
    """
    ordered = sorted(documents, key=lambda document: place(document, "held out"))
    count = sum(place(document, "held out") < share for document in ordered)
    count = min(max(count, 1), len(ordered) - 1) if ordered else 0
    return shuffled(ordered[count:]), shuffled(ordered[:count])


def shuffled(documents: Sequence[Document]) -> list[Document]:
    """In an order that depends on the documents' content alone."""
    return sorted(documents, key=lambda document: (place(document, "order"), document.id))
