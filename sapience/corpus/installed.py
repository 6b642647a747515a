"""Sources and docstrings of Python packages that are installed anyway: text that every machine has.

Packages are found, not imported: torch's sources are read without loading torch.
"""

import ast
import importlib.util
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from sapience.corpus.files import list_files, read_file
from sapience.corpus.records import Reading, Record, SourceMissing

STANDARD_LIBRARY = "stdlib"
_NOT_STANDARD = (
    "site-packages/*",
    "dist-packages/*",
    "**/idle_test/**",
    "lib2to3/**",
    "encodings/**",
    "turtledemo/**",
)
SHORTEST_DOCSTRING = 120
"""Bytes; shorter ones say little more than the name."""


def read_installed(
    modules: Sequence[str], part: str, exclude: Sequence[str], salt: str, reading: Reading
) -> Iterator[Record]:
    """Modules' sources, or per module its docstrings; the modules take turns, so that none waits for the others.

    Raises SourceMissing where a package is not installed.
    """
    found = [(module, _folder(module)) for module in modules]
    reading.version = ", ".join(_version(module) for module in modules)
    queues = []
    for module, folder in found:
        left_out = (*exclude, *(_NOT_STANDARD if module == STANDARD_LIBRARY else ()))
        files = list_files(folder, ("**/*.py",), left_out, salt)
        queues.append([(folder, "" if module == STANDARD_LIBRARY else f"{module}/", path) for path in files])
    for round_ in range(max(len(queue) for queue in queues)):
        for queue in queues:
            if round_ < len(queue):
                folder, prefix, path = queue[round_]
                place = prefix + path.relative_to(folder).as_posix()
                for record in read_file(path, place, "", reading):
                    yield from [record] if part == "source" else _docstrings(record)


def _folder(module: str) -> Path:
    if module == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(module.partition(".")[0])
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise SourceMissing(f"the Python package {module} is not installed here: pip install {module}")
    return Path(locations[0])


def _version(module: str) -> str:
    if module == STANDARD_LIBRARY:
        return f"Python {platform.python_version()}"
    try:
        return f"{module} {metadata.version(module)}"
    except metadata.PackageNotFoundError:
        return module


def _docstrings(record: Record) -> Iterator[Record]:
    """The module's docstrings in their order, each under the name of what it describes."""
    if '"""' not in record.text and "'''" not in record.text:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(record.text)
    except (SyntaxError, ValueError, RecursionError):
        return
    parts = [part for part in _described(tree, "") if len(part.encode()) >= SHORTEST_DOCSTRING]
    if parts:
        yield Record("\n\n".join(parts), record.place)


def _described(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[str]:
    text = ast.get_docstring(node, clean=False)
    if text:
        cleaned = inspect.cleandoc(text)
        yield f"{name}\n{cleaned}" if name else cleaned
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _described(child, f"{name}.{child.name}" if name else child.name)
