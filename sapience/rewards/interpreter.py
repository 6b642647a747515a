"""Which Python runs inside a sandbox, and the few paths it needs.

The interpreter behind our own virtual environment is taken (same version, always there), started with `-I -S`: no
environment variables, no site-packages, no user site. Of the machine it sees its standard library and the shared
libraries, read-only; installed packages beside the standard library are hidden, so neither this project nor anything
else that was installed can be imported or read.

Not covered: distributions that keep the C library outside /lib and /usr/lib (NixOS, Guix).
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

OPTIONS = ("-I", "-S", "-X", "utf8", "-c")
_SYSTEM_LIBRARIES = (Path("/lib"), Path("/lib64"), Path("/usr/lib"), Path("/usr/lib64"))
_LOADER_CACHE = Path("/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`roots` may be read except for `hidden` folders beneath them; `links` are (place, target) of symbolic links."""

    executable: Path
    roots: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...]
    hidden: tuple[Path, ...]

    def taken_apart(self) -> tuple[list[Path], list[Path]]:
        """The same for whoever cannot hide: what may be read with all beneath it, and folders that are only listed.

        Links beneath those are left out: what they lead to is there under its own name, or it is not to be read.
        """
        read: list[Path] = []
        listed: list[Path] = []
        waiting = list(self.roots)
        for path in waiting:
            if path in self.hidden:
                continue
            if any(hidden.is_relative_to(path) for hidden in self.hidden):
                listed.append(path)
                waiting += sorted(entry for entry in path.iterdir() if not entry.is_symlink())
            else:
                read.append(path)
        return read, listed


def own_interpreter() -> Interpreter:
    """The interpreter behind ours, with the folders that exist on this machine."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    prefix = Path(sys.base_prefix).resolve()
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    libraries = [*_SYSTEM_LIBRARIES, prefix / "lib", prefix / "lib64", standard]
    places = [path for path in libraries if path.is_dir() and not path.is_symlink()]
    links = [(path, str(path.readlink())) for path in libraries if path.is_symlink()]
    roots = [path for path in places if not any(path != other and path.is_relative_to(other) for other in places)]
    hidden = [
        folder
        for root in roots
        for python in root.glob("python3*")
        for folder in (python / "site-packages", python / "dist-packages")
        if folder.is_dir()
    ]
    single = [path for path in (executable, _LOADER_CACHE) if path.is_file()]
    return Interpreter(
        executable, (*dict.fromkeys(roots), *single), tuple(dict.fromkeys(links)), tuple(dict.fromkeys(hidden))
    )
