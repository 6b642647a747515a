"""A folder on disk for one run, where no file system in memory can be mounted for it.

It lies where temporary files lie, belongs to the run alone and is removed when the run has ended, whatever it left in
there: folders nobody may read, trees deeper than a path is long. Links would lead out of it; Landlock lets nobody make
one. A file system in memory would be faster and is not used: what lies in one counts as nobody's memory.

How much is in it is seen by looking, so it can be exceeded between two looks. Not covered: files that were deleted and
are held open, which no look finds, so only compilers are given such a folder to write to, never what they compiled;
and the folder of a run whose judge was killed, which stays until temporary files are cleared away.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from sapience.recipe.errors import UserError

_MOST_FILES = 8192
_DEEPEST = 32
_ENTRY_BYTES = 4096
"""What an entry takes at least, empty or not."""
_REMOVING_SECONDS = 5.0


@contextmanager
def scratch_folder(identity: int | None, writable: bool) -> Iterator[Path]:
    """An empty folder for one run as the user `identity` (None: as ourselves), removed at the end.

    Raises UserError where there is no place for one.
    """
    name = f"sapience-scratch-{os.getpid()}-"  # whose it is, should it ever be found
    folder = Path(tempfile.mkdtemp(prefix=name, dir=_place(identity is not None)))
    try:
        if identity is not None:
            os.chown(folder, identity if writable else -1, identity)
            folder.chmod(0o700 if writable else 0o750)
        yield folder
    finally:
        remove(folder)


@cache
def _place(for_another_user: bool) -> Path:
    """Where temporary files lie and programs can be executed, by others too where a run becomes another user."""
    tried = dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")))
    for folder in tried:
        with suppress(OSError):
            place = folder.resolve(strict=True)
            if os.statvfs(place).f_flag & os.ST_NOEXEC or not os.access(place, os.W_OK | os.X_OK):
                continue
            if not for_another_user or open_to_all(place):
                return place
    raise UserError(
        f"there is no folder for programs to be compiled in: {', '.join(map(str, tried))} cannot be written, forbid execution "
        "(noexec) or are closed to other users; set TMPDIR to one that all users may enter"
    )


def open_to_all(path: Path) -> bool:
    """Whether any user can get to a path."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents) if folder.is_dir())


def too_full(folder: Path, most_bytes: int) -> bool:
    """Whether more lies in a folder than `most_bytes`, more files than any compiler makes, or what cannot be looked at."""
    held, entries = 0, 0
    waiting = [(folder, 0)]
    for place, depth in waiting:
        try:
            with os.scandir(place) as found:
                for entry in found:
                    status = entry.stat(follow_symlinks=False)
                    held += max(512 * status.st_blocks, _ENTRY_BYTES)
                    entries += 1
                    if held > most_bytes or entries > _MOST_FILES or depth > _DEEPEST:
                        return True
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append((place / entry.name, depth + 1))
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            return True
    return False


def remove(folder: Path) -> None:
    """Take a folder away with everything in it; nobody may be working in it any more.

    Folders are moved up before they are emptied, so that neither their depth nor their modes matter. Processes that were
    killed a moment ago may still finish a call, so it is tried for a while.
    """
    end = time.monotonic() + _REMOVING_SECONDS
    while True:
        try:
            _empty(folder)
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _empty(folder: Path) -> None:
    numbers, unknown = count(), secrets.token_hex(8)
    while entries := list(folder.iterdir()):
        for path in entries:
            if not _is_folder(path):
                path.unlink()
                continue
            path.chmod(0o700)
            for inner in list(path.iterdir()):
                if _is_folder(inner):
                    inner.chmod(0o700)
                    inner.rename(folder / f"{unknown}-{next(numbers)}")
                else:
                    inner.unlink()
            path.rmdir()


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)
