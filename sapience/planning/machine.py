"""What this machine offers to this process: cores, memory, disk, GPUs, programs.

A container's limits count, not the host's size: cores by affinity and by the control group's quota, memory by the
smallest limit on the path from this process's group to the root (both versions of control groups). Everything is read
from files or from programs that answer in a second; what cannot be found out is None, never an error.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PROGRAMS = ("git", "make", "cc", "c++", "apt-get", "dpkg-deb", "nvidia-smi")
_UNLIMITED = 1 << 60
"""Version 1 of control groups writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class Gpu:
    """A device that NVIDIA's driver lists."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """A snapshot; `folder` is the place that `disk_free_bytes` was measured for."""

    cores: int
    """Cores this process may keep busy at once, at least one."""
    memory_total_bytes: int
    """Memory of the machine or the container's limit, whichever is smaller."""
    memory_available_bytes: int
    """What can be taken now without swapping or being killed."""
    folder: Path
    disk_free_bytes: int
    system: str
    python: str
    packages: Mapping[str, str | None]
    """Version of each package that was looked for, None where it is not installed."""
    gpus: tuple[Gpu, ...]
    programs: Mapping[str, str | None]
    """Path of each of `PROGRAMS`, None where it is missing."""


def examine(folder: Path) -> Machine:
    """Look at the machine; the folder need not exist yet (its nearest existing parent is measured). Takes under 2 s."""
    programs = {name: _find(name) for name in PROGRAMS}
    total, available = memory()
    return Machine(
        cores=usable_cores(),
        memory_total_bytes=total,
        memory_available_bytes=available,
        folder=folder,
        disk_free_bytes=_disk_free(folder),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: _version(name) for name in ("torch", "numpy", "reasoning-gym", "rensa", "matplotlib")},
        gpus=_gpus(programs["nvidia-smi"]),
        programs=programs,
    )


def usable_cores() -> int:
    """Cores by affinity, cut to the control group's quota (rounded down, at least one)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _group_folders("cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *(int(quota) for quota in quotas)]))


def memory() -> tuple[int, int]:
    """Total and available bytes, the container's limits taken into account."""
    fields = _read_fields(Path("/proc/meminfo"))
    if "MemTotal" not in fields:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages
    total = fields["MemTotal"] * 1024
    available = fields.get("MemAvailable", fields["MemTotal"]) * 1024
    for folder in _group_folders("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None or limit > _UNLIMITED:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        statistics = _read_fields(folder / "memory.stat")
        reclaimable = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
        total = min(total, limit)
        available = min(available, max(0, limit - used + reclaimable))
    return total, available


def _group_folders(controller: str) -> Iterator[Path]:
    """This process's control group and all its parents, as far as they are visible, in both versions."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup")
        if number != "0":
            if controller not in controllers.split(","):
                continue
            root = next((r for r in (root / controllers, root / controller) if r.is_dir()), root / controller)
        group = root / path.lstrip("/")
        while True:
            if group.is_dir():
                yield group
            if group == root or root not in group.parents:
                break
            group = group.parent


def _quota(folder: Path) -> float | None:
    """Cores' worth of time per period that the group may use; None for no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _read_fields(path: Path) -> dict[str, int]:
    """`name value` or `name: value kB` lines."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _find(program: str) -> str | None:
    """On the path, or beside this Python, where packages that bring a program put it."""
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


def _disk_free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _answer(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _gpus(nvidia_smi: str | None) -> tuple[Gpu, ...]:
    if nvidia_smi is None:
        return ()
    done = _answer([nvidia_smi, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"])
    if done is None or done.returncode:
        return ()
    rows = [line.rpartition(",") for line in done.stdout.splitlines()]
    return tuple(Gpu(name.strip(), int(mib) << 20) for name, _, mib in rows if mib.strip().isdigit())
