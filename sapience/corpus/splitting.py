"""Long files cut into documents: code where something is defined, prose between paragraphs.

Documents of a few kilobytes make held-out text diverse and packing tight. A piece of code keeps the path of its file
as a comment in its first line, since its imports stand in another piece.
"""

import re
from pathlib import PurePosixPath

COMMENTS = {
    "#": {".py", ".pyi", ".sh", ".rb", ".pl", ".r", ".jl", ".yaml", ".yml", ".toml", ".cmake"},
    "//": {
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cu",
        ".cuh",
        ".java",
        ".js",
        ".ts",
        ".go",
        ".rs",
        ".swift",
        ".kt",
    },
    "--": {".sql", ".lua", ".hs"},
}
"""Marks of a comment line -> endings of the files that use it."""
_DEFINITIONS = re.compile(r"\n\n+(?=[^\s)\]}])")
_PARAGRAPHS = re.compile(r"\n\n+")
_LINES = re.compile(r"\n")


def split_code(text: str, place: str, size: int) -> list[str]:
    """Pieces of about `size` bytes that begin at an unindented line after an empty one, wherever there is one."""
    path = PurePosixPath(place.partition(":")[0])
    mark = next((mark for mark, endings in COMMENTS.items() if path.suffix.lower() in endings), None)
    header = f"{mark} {path}\n" if mark else ""
    return [header + piece for piece in _split(text, size, (_DEFINITIONS, _PARAGRAPHS, _LINES))]


def split_prose(text: str, size: int) -> list[str]:
    """Pieces of at most about `size` bytes, cut between paragraphs, else between lines."""
    return _split(text, size, (_PARAGRAPHS, _LINES))


def _split(text: str, size: int, boundaries: tuple[re.Pattern[str], ...]) -> list[str]:
    """Parts between the first kind of boundary, joined up to `size`; a part still longer is cut at the next kind."""
    if len(text.encode()) <= size:
        return [text]
    if not boundaries:
        step = max(1, size // 4)  # a character has at most four bytes
        return [text[start : start + step] for start in range(0, len(text), step)]
    pieces: list[str] = []
    start = end = held = 0
    for mark in [*(match.end() for match in boundaries[0].finditer(text)), len(text)]:
        part = len(text[end:mark].encode())
        if end > start and held + part > size:
            pieces += _split(text[start:end].strip("\n"), size, boundaries[1:])
            start, held = end, 0
        end, held = mark, held + part
    pieces += _split(text[start:].strip("\n"), size, boundaries[1:])
    return [piece for piece in pieces if piece]
