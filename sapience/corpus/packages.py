"""Files of Debian packages and of Python wheels, fetched without root and without installing anything.

Downloads stay in the user's cache (`$XDG_CACHE_HOME/sapience`, else `~/.cache/sapience`), so that a machine asks an
archive once. The system's package lists are used where they are fresh; otherwise private ones are fetched into the
cache. Versions are what the archive offers; the provenance records them.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sapience.corpus.files import matches
from sapience.corpus.records import SourceMissing

PATIENCE = 300
"""Seconds that one download may take."""


def cache_folder(kind: str) -> Path:
    """The user's cache for one kind of download, made where it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "sapience" / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceMissing(f"the cache {folder} cannot be made ({error.strerror}): set XDG_CACHE_HOME") from None
    return folder


def unpack_debian(packages: Sequence[str], into: Path) -> str:
    """Unpack the packages into `into`; returns their versions. Raises SourceMissing."""
    versions = []
    for package in packages:
        archive = _debian_archive(package)
        _command(["dpkg-deb", "-x", str(archive), str(into)], f"unpacking {package}")
        versions.append("_".join(archive.stem.split("_")[:2]).replace("%3a", ":").replace("_", " "))
    return ", ".join(versions)


def _debian_archive(package: str) -> Path:
    cache = cache_folder("debian")
    cached = sorted(cache.glob(f"{package}_*.deb"))
    if cached:
        return cached[0]
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SourceMissing(f"Debian package {package}: this machine has no {program}")
    with TemporaryDirectory(dir=cache) as folder:
        try:
            _command(["apt-get", "download", "-qq", package], f"downloading {package}", Path(folder))
        except SourceMissing:
            options = _private_lists(cache / "apt")
            _command(["apt-get", *options, "download", "-qq", package], f"downloading {package}", Path(folder))
        files = list(Path(folder).glob("*.deb"))
        if not files:
            raise SourceMissing(f"Debian package {package}: apt-get brought no file")
        return files[0].rename(cache / files[0].name)


_refreshed: set[Path] = set()


def _private_lists(folder: Path) -> list[str]:
    """apt-get options for package lists of our own, fetched once per process."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = [
        f"-oDir::State={folder / 'state'}",
        "-oDir::State::status=/var/lib/dpkg/status",
        f"-oDir::Cache={folder / 'cache'}",
    ]
    if folder not in _refreshed:
        _command(["apt-get", *options, "update", "-qq"], "refreshing package lists")
        _refreshed.add(folder)
    return options


def unpack_wheels(requirements: Sequence[str], include: Sequence[str], into: Path) -> str:
    """Unpack the files of packages that match `include` into `into`; returns the versions. Raises SourceMissing."""
    versions = []
    for requirement in requirements:
        wheel = _wheel(requirement)
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(into, [name for name in archive.namelist() if matches(name, include)])
        except (zipfile.BadZipFile, OSError) as error:
            raise SourceMissing(f"{wheel} cannot be unpacked ({error}): delete it to have it fetched again") from None
        versions.append(" ".join(wheel.stem.split("-")[:2]))
    return ", ".join(versions)


def _wheel(requirement: str) -> Path:
    cache = cache_folder("wheels") / re.sub(r"[^A-Za-z0-9._-]+", "_", requirement)
    cached = sorted(cache.glob("*.whl"))
    if cached:
        return cached[0]
    with TemporaryDirectory(dir=cache_folder("wheels")) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _command([*pip, "--only-binary=:all:", "--dest", folder, requirement], f"downloading {requirement}")
        files = list(Path(folder).glob("*.whl"))
        if not files:
            raise SourceMissing(f"Python package {requirement}: pip brought no wheel")
        cache.mkdir(exist_ok=True)
        return files[0].rename(cache / files[0].name)


def _command(command: Sequence[str], doing: str, folder: Path | None = None) -> None:
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise SourceMissing(f"{doing}: this machine has no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise SourceMissing(f"{doing}: no answer within {PATIENCE} s: check the network and run again") from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise SourceMissing(f"{doing}: {lines[-1].strip() if lines else f'{command[0]} failed'}")
