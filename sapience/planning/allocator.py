"""Keeping freed memory instead of giving it back to the system, which hands it out again page by page, zeroed.

A training step on a CPU frees and asks for the same large tensors over and over. The C library returns such blocks to the
system at once; keeping them takes a fifth of a step's time away and no more memory at the peak (docs/lab-log.md).
"""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
"""glibc's names for mallopt, from malloc.h."""
_TOP_PAD_BYTES = 256 << 20


def keep_memory() -> bool:
    """From now on memory that this process frees stays its own. False where the C library is not glibc."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: _TOP_PAD_BYTES, _ARENA_MAX: 1}
        return sum(mallopt(name, value) for name, value in wanted.items()) == len(wanted)
    return False
