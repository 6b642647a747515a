"""The machine in a table: what is there, what is missing, and how to get it."""

from __future__ import annotations

from dataclasses import dataclass

from sapience.planning.machine import Machine
from sapience.problems.problem import Language
from sapience.recipe.errors import UserError
from sapience.rewards.sandbox import choose_sandbox
from sapience.rewards.toolchains import TOOLCHAINS, missing

GIB = 1 << 30
_LOW_MEMORY, _LOW_DISK = 3 * GIB, 2 * GIB


@dataclass(frozen=True)
class Finding:
    """A row of the table."""

    what: str
    state: str
    remedy: str
    """Empty where nothing has to be done."""


def doctor_report(machine: Machine) -> list[Finding]:
    """One row per thing that a run may need; a remedy is given only where something is missing or scarce."""
    cores = "" if machine.cores > 1 else "one core doubles the demo's time: allow the process or container more"
    memory = "" if machine.memory_available_bytes >= _LOW_MEMORY else "close programs or raise the container's limit"
    disk = "" if machine.disk_free_bytes >= _LOW_DISK else f"free some space where {machine.folder} is"
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / GIB:.0f} GiB)" for gpu in machine.gpus)
    rows = [
        Finding("system", f"{machine.system}, Python {machine.python}", ""),
        Finding("cores", str(machine.cores), cores),
        Finding(
            "memory",
            f"{_gib(machine.memory_available_bytes)} of {_gib(machine.memory_total_bytes)} free",
            memory,
        ),
        Finding("disk", f"{_gib(machine.disk_free_bytes)} free at {machine.folder}", disk),
        Finding("GPU", gpus or "none: everything runs on the CPU", ""),
    ]
    rows += [_package(name, version) for name, version in machine.packages.items()]
    rows += [_program(name, path) for name, path in machine.programs.items() if name in _PROGRAM_USES]
    rows.append(_sandbox())
    rows += [_language(language) for language in TOOLCHAINS]
    return rows


_PROGRAM_USES = {
    "apt-get": "help texts in many languages are not downloaded; the corpus takes its other sources",
    "dpkg-deb": "help texts in many languages are not unpacked; the corpus takes its other sources",
    "cc": "torch.compile is not available; install a C compiler (Debian: apt install gcc)",
    "c++": "models on a CPU answer several times slower than they could; install g++ (Debian: apt install g++)",
}


def _program(name: str, path: str | None) -> Finding:
    return Finding(name, path or "missing", "" if path else _PROGRAM_USES[name])


def _package(name: str, version: str | None) -> Finding:
    return Finding(name, version or "missing", "" if version else "run `make` once more, or pip install " + name)


def _sandbox() -> Finding:
    """The tier that a run would choose, attacked as a run attacks it first."""
    try:
        chosen = choose_sandbox()
    except UserError as error:
        return Finding("sandbox", "none", f"needed only to run code that a model wrote: {error}")
    remedy = "allow user namespaces for a stronger one (docs/guide.md)" if chosen.weaker else ""
    return Finding("sandbox", chosen.description, remedy)


def _language(language: Language) -> Finding:
    lacking = missing(language)
    return Finding(
        f"programs in {language}",
        f"{', '.join(lacking)} missing" if lacking else "can be judged",
        f"needed only to judge answers in {language}: {TOOLCHAINS[language].remedy}" if lacking else "",
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
