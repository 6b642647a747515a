"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

PROBE = """
import resource, torch
from sapience.planning.allocator import keep_memory
kept = KEEP and keep_memory()
for _ in range(20): torch.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): torch.ones(8 << 20)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_asked_for_once() -> None:
    """Ten tensors of 32 MiB, one after another: pages are handed out anew for each, or not at all."""
    counts = []
    for keep in ("False", "True"):
        run = subprocess.run(
            [sys.executable, "-c", PROBE.replace("KEEP", keep)], capture_output=True, text=True, check=True
        )
        kept, faults = map(int, run.stdout.split())
        assert bool(kept) == (keep == "True")
        counts.append(faults)
    assert counts[1] < counts[0] / 4
