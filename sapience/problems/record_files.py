"""Records of a file, one after the other: JSON lines, a JSON list, either compressed with gzip or zstd, or parquet.

What is no record is handed on as the reason why, with its number; a file that cannot be read to its end raises, since a
truncated download must not pass for a small set. Lines are streamed and bounded: of one that is too long never more than
the bound is in memory. A JSON list is read as a whole, up to `LARGEST_LIST` bytes, and parquet by batches of rows.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from sapience.recipe.errors import UserError

LONGEST_LINE = 1 << 23
"""Bytes; longer lines are put aside unread. Records of programming contests with their tests are a few 10^6 long."""
LARGEST_LIST = 1 << 29
_CHUNK = 1 << 16
_ROWS = 64

Place = tuple[int, dict[str, Any] | str]
"""A record's number, counted from one, and the record or the reason why it is none."""


def read_records(path: Path) -> Iterator[Place]:
    """All records of a file. Raises UserError where it is missing, damaged or cannot be read."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        else:
            yield from _json(path)
    except FileNotFoundError:
        raise UserError(f"the problem file {path} does not exist: check the path in the recipe") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"the problem file {path} is damaged ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(
            f"the problem file {path} cannot be read ({error.strerror or error}): check its rights"
        ) from error


def json_object(line: bytes) -> dict[str, Any]:
    """The object in a line of a JSONL file. Raises ValueError with the reason where there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    except ValueError:
        raise ValueError("a number of too many digits") from None
    return checked_record(record)


def checked_record(record: Any) -> dict[str, Any]:
    """The value as a record. Raises ValueError where it is no object, or holds text that is no Unicode."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    try:
        json.dumps(record, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which no UTF-8 file can hold") from None
    except (RecursionError, ValueError):
        raise ValueError("not JSON") from None
    return record


def _json(path: Path) -> Iterator[Place]:
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    with _opened(path) as file:
        if plain.suffix == ".json" and file.peek(_CHUNK).lstrip()[:1] == b"[":
            yield from _list(path, file)
            return
        for number, line in enumerate(_bounded_lines(file), start=1):
            if line is None:
                yield number, f"longer than {LONGEST_LINE} bytes"
            elif line.strip():
                try:
                    yield number, json_object(line)
                except ValueError as error:
                    yield number, str(error)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The uncompressed content as a stream that raises where a compressed file breaks off."""
    with path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as unpacked:
                yield io.BufferedReader(unpacked, _CHUNK)
        elif path.suffix == ".zst":
            yield io.BufferedReader(_ZstdStream(file), _CHUNK)
        else:
            yield file


class _ZstdStream(io.RawIOBase):
    """Frames of zstd, one after the other. The library's own reader takes a file that breaks off for one that ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(_CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("zstd: the file breaks off in the middle of a frame")
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = frame.decompress(self._packed)
            self._packed = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        given, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def _bounded_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines, and None for each that is too long; of such a line never more than the bound is in memory."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
        yield None


def _list(path: Path, file: BinaryIO) -> Iterator[Place]:
    content = file.read(LARGEST_LIST + 1)
    if len(content) > LARGEST_LIST:
        raise UserError(f"{path} is a JSON list of more than {LARGEST_LIST} bytes: make JSON lines of it")
    try:
        records = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the problem file {path} is no JSON list ({str(error)[:100]}): fetch it again") from None
    for number, record in enumerate(records, start=1):
        yield _placed(number, record)


def _parquet(path: Path) -> Iterator[Place]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} needs the library pyarrow: pip install 'sapience[corpus]'") from None
    try:
        with parquet.ParquetFile(path) as table:
            rows = (row for batch in table.iter_batches(_ROWS) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield _placed(number, row)
    except pyarrow.ArrowException as error:
        raise UserError(f"the problem file {path} is damaged ({str(error)[:100]}): fetch it again") from None


def _placed(number: int, record: Any) -> Place:
    try:
        return number, checked_record(record)
    except ValueError as error:
        return number, str(error)
