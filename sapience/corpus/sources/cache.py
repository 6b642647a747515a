"""Downloaded packages, kept between runs, so that a machine without a network can use what it once had.

A folder in the cache is complete or absent: it is filled under a temporary name and renamed. It is never refreshed by
itself, since the same recipe should read the same text next week; deleting the folder is how a user asks for a new
version.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sapience.corpus.sources.record import SourceMissing


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/sapience`, by default `~/.cache/sapience`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sapience"


def newest(shelf: Path, prefix: str) -> Path | None:
    """The folder on a shelf whose name begins so and that was put there last."""
    found = [path for path in shelf.glob(f"{prefix}*") if path.is_dir()] if shelf.is_dir() else []
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def store(shelf: Path, fill: Callable[[Path], str]) -> Path:
    """Let `fill` write into an empty folder and put it on the shelf under the name that `fill` returns.

    Where another process put the same there meanwhile, the other's stays. Raises SourceMissing where the disk refuses.
    """
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=shelf))
    except OSError as error:
        raise SourceMissing(f"cannot write to the cache {shelf} ({error.strerror}): set XDG_CACHE_HOME") from None
    try:
        target = shelf / fill(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        return target
    except OSError as error:
        raise SourceMissing(
            f"cannot fill the cache {shelf} ({error.strerror}): free some space or set XDG_CACHE_HOME"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
