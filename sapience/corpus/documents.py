"""The document, the unit that everything in this room counts, and its files (JSON lines, zstd-compressed)."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

COMPRESSION_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text with where it comes from."""

    text: str
    domain: str
    """Name in the mixture."""
    language: str
    """ISO 639-1 code, or empty where no language was identified (code, problems)."""
    kind: str
    """text, code, math or problem."""
    source: str
    license: str

    @property
    def id(self) -> str:
        """Content hash, 16 hex digits: the same text is the same document wherever it comes from."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:16]


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a `.jsonl.zst` file that `write_documents` made."""
    with open(path, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
        pending = b""
        while chunk := stream.read(1 << 20):
            lines = (pending + chunk).split(b"\n")
            pending = lines.pop()
            for line in lines:
                yield Document(**json.loads(line))


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write documents atomically; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    count = 0
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
    with open(temporary, "wb") as raw, compressor.stream_writer(raw) as stream:
        for document in documents:
            stream.write(json.dumps(asdict(document), ensure_ascii=False).encode("utf-8") + b"\n")
            count += 1
    temporary.replace(path)
    return count
