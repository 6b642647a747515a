"""Records out of files: plain text, HTML, translations, JSON lines, parquet, source code.

A format is told by the file's ending. Files of a folder are taken in the order of a hash of their path, so that the
beginning of a source is a fair sample of it; so are row groups left in theirs, since a stream cannot be shuffled.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

from sapience.corpus.compressed import Damaged, bounded_lines, read_chunks
from sapience.corpus.markup import html_to_prose, translations
from sapience.corpus.records import Reading, Record
from sapience.corpus.splitting import COMMENTS
from sapience.recipe.errors import UserError

PROSE = {".txt", ".md", ".rst", ".text", ".markdown"}
PAGES = {".html", ".htm", ".xhtml"}
JSON_LINES = {".jsonl", ".ndjson"}
CODE = {ending for endings in COMMENTS.values() for ending in endings}
COMPRESSED = {".gz", ".zst"}
_SKIPPED_FOLDERS = {"__pycache__", "node_modules", ".git", ".hg", ".svn", ".venv"}


def list_files(folder: Path, include: Sequence[str], exclude: Sequence[str], salt: str) -> list[Path]:
    """Files of known formats below `folder` that match, in the order of a hash of `salt` and their path."""
    found: list[tuple[bytes, Path]] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if _format(path) and matches(relative, include) and not matches(relative, exclude):
                found.append((sha256(f"{salt}/{relative}".encode()).digest(), path))
    return [path for _, path in sorted(found)]


def matches(relative: str, patterns: Sequence[str]) -> bool:
    """Whether a path with slashes matches one of the patterns; `*` goes across folders."""
    return any(fnmatchcase(f"/{relative}", p) or fnmatchcase(relative, p) for p in patterns)


def _format(path: Path) -> str | None:
    """The ending that says how to read the file, compression aside; None for an unknown one."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    known = {*PROSE, *PAGES, *JSON_LINES, *CODE, ".po", ".parquet"}
    return endings[-1] if endings and endings[-1] in known else None


def user_files(path: str, include: Sequence[str], exclude: Sequence[str], salt: str) -> tuple[Path, list[Path]]:
    """The folder that places are told from, and the files. Raises UserError where there is nothing to read."""
    root = Path(path).expanduser()
    if root.is_file():
        if _format(root) is None:
            raise UserError(
                f"{root} has no known ending: name it .txt, .md, .html, .po, .jsonl, .jsonl.zst, .parquet or .py"
            )
        return root.parent, [root]
    if not root.is_dir():
        raise UserError(f"the source {salt} names {root}, which does not exist: check its path in the recipe")
    files = list_files(root, include, exclude, salt)
    if not files:
        raise UserError(
            f"the source {salt} finds no readable file below {root}: check its include patterns in the recipe"
        )
    return root, files


def read_files(root: Path, files: Sequence[Path], field: str, reading: Reading) -> Iterator[Record]:
    """The records of all files in order; places are told from `root`."""
    for path in files:
        yield from read_file(path, path.relative_to(root).as_posix(), field, reading)


def read_file(path: Path, place: str, field: str, reading: Reading) -> Iterator[Record]:
    """The records of one file; what cannot be read is set aside."""
    ending = _format(path)
    try:
        if ending in JSON_LINES:
            yield from _json_lines(path, place, field, reading)
        elif ending == ".parquet":
            yield from _parquet(path, place, field, reading)
        else:
            text = _whole_text(path, place, reading)
            if text is None:
                return
            if ending in PAGES:
                yield Record(html_to_prose(text), place)
            elif ending == ".po":
                yield from (Record(part, place) for part in translations(text))
            else:
                yield Record(text, place)
    except OSError as error:
        reading.set_aside("unreadable file", place, str(error.strerror or error))


def _whole_text(path: Path, place: str, reading: Reading) -> str | None:
    content = bytearray()
    try:
        for chunk in read_chunks(path):
            content += chunk
            if len(content) > reading.record_limit:
                reading.too_large(place)
                return None
    except Damaged as error:
        reading.set_aside("damaged file", place, str(error))
        return None
    return _decoded(bytes(content), place, reading)


def _decoded(data: bytes, place: str, reading: Reading) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reading.set_aside("invalid UTF-8", place, f"byte {error.start}: convert the text to UTF-8")
        return None


def _json_lines(path: Path, place: str, field: str, reading: Reading) -> Iterator[Record]:
    number = 0
    try:
        for number, line in enumerate(bounded_lines(read_chunks(path), reading.record_limit), start=1):
            where = f"{place}:{number}"
            if line is None:
                reading.too_large(where)
            elif line.strip() and (text := _json_text(line, where, field, reading)) is not None:
                yield Record(text, where)
    except Damaged as error:
        reading.set_aside("damaged file", f"{place}:{number + 1}", f"{error}; the lines before were read")


def _json_text(line: bytes, where: str, field: str, reading: Reading) -> str | None:
    decoded = _decoded(line, where, reading)
    if decoded is None:
        return None
    try:
        record = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        reading.set_aside("malformed JSON", where, str(error))
        return None
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        reading.set_aside("no text", where, f"the line has no text field {field!r}")
        return None
    if not _encodable(text):
        reading.set_aside("invalid UTF-8", where, "an escaped half of a surrogate pair")
        return None
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path, place: str, field: str, reading: Reading) -> Iterator[Record]:
    parquet, damaged = _parquet_library()
    try:
        table = parquet(path)
        if field not in table.schema_arrow.names:
            reading.set_aside("no text", place, f"no column {field!r}; there are {', '.join(table.schema_arrow.names)}")
            return
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                where = f"{place}:{number}"
                if not isinstance(text, str):
                    reading.set_aside("no text", where, f"the row has no text in {field!r}")
                elif len(text.encode()) > reading.record_limit:
                    reading.too_large(where)
                else:
                    yield Record(text, where)
    except damaged as error:
        reading.set_aside("damaged file", place, str(error))


def _parquet_library() -> tuple[Callable[[Path], Any], type[Exception]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("reading parquet files needs pyarrow: pip install 'sapience[corpus]'") from None
    return ParquetFile, ArrowException
