"""Bytes of files that may be compressed with gzip or zstd, in bounded pieces; lines of bounded length.

zstandard's own stream reader takes a file that breaks off for one that ends; here a broken one is told from a whole
one, because a truncated download must not pass for a small data set.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

CHUNK = 1 << 20


class Damaged(Exception):
    """The file breaks off or is corrupt; what came before is good."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """The uncompressed content. Raises Damaged where a compressed file breaks off or is corrupt."""
    if path.suffix == ".zst":
        yield from _zstd_chunks(path)
    elif path.suffix == ".gz":
        with gzip.open(path, "rb") as stream:
            try:
                while chunk := stream.read(CHUNK):
                    yield chunk
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise Damaged(f"gzip: {error}") from error
    else:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    with open(path, "rb") as file:
        frame = None
        try:
            while data := file.read(CHUNK // 8):
                while data:
                    frame = frame or decompressor.decompressobj()
                    if chunk := frame.decompress(data):
                        yield chunk
                    data = b""
                    if frame.eof:
                        data, frame = frame.unused_data, None
        except zstandard.ZstdError as error:
            raise Damaged(f"zstd: {error}") from error
        if frame is not None:
            raise Damaged("zstd: the file breaks off in the middle of a frame")


def bounded_lines(chunks: Iterator[bytes], limit: int) -> Iterator[bytes | None]:
    """Lines without their ends, None for each longer than `limit` bytes; of such a line no more than `limit` and a
    chunk are in memory."""
    held, too_long = bytearray(), False
    for chunk in chunks:
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            yield None if too_long or len(held) + len(part) > limit else bytes(held) + part
            held, too_long = bytearray(), False
        if not too_long:
            held += parts[-1]
            if len(held) > limit:
                held, too_long = bytearray(), True
    if too_long or held:
        yield None if too_long else bytes(held)
