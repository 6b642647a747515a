"""How much of the machine one submission may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one submission with all its tests.

    `cpu_seconds` is the only clock that gives the verdict `timeout` to a program that computes: a crowded machine
    makes it slower, not wrong. `wall_seconds` is generous and guards against waiting for ever. `memory_mb` is the
    address space of each process, `processes` bounds how many there can be at a time, so a submission can hold
    their product; `output_bytes` bounds all its answers together.
    """

    cpu_seconds: float = 2.0
    wall_seconds: float = 20.0
    memory_mb: int = 256
    output_bytes: int = 65536
    processes: int = 16

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "wall_seconds", "memory_mb", "output_bytes", "processes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} has to be above 0, not {getattr(self, name)}")
