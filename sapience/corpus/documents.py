"""A document as a record, and files of them: one JSON object a line, compressed with zstd.

The identity of a document is a hash of its text, so that splitting, cutting and drawing depend on what it says and
not on where it came from.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path

import zstandard


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of clean text that is learned as a whole."""

    text: str
    domain: str
    language: str
    """ISO 639-1 code, or empty where it has none (code)."""
    kind: str
    """text, code, math or problem."""
    source: str
    license: str

    @property
    def id(self) -> str:
        """16 hexadecimal digits that depend on the text alone."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a file written by `write_documents`, streamed."""
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in TextIOWrapper(stream, encoding="utf-8", newline="\n"):
            yield Document(**json.loads(line))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write all documents or nothing, streamed; returns their number. The same documents give the same bytes."""
    temporary = path.with_name(f".{path.name}.partial")
    count = 0
    try:
        with open(temporary, "wb") as file:
            with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as stream:
                for document in documents:
                    stream.write(json.dumps(asdict(document), ensure_ascii=False).encode() + b"\n")
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count
