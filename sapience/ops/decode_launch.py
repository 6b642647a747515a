"""Starting a decoding step's kernels: each while the one before it ends, and compiled side by side the first time.

With few rows a step takes as long as reading the weights and starting the kernels, so there are few of them: two matrices of
the same rows are one launch, gate and up meet where they are made, experts find their rows themselves, residuals are added
where products end. Rows whose position is negative stand for nobody. The kernels' meaning, in value but for rounding, is
`sapience.inference.network.LatentNetwork`; they have no gradients.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_compiling = False


@contextmanager
def compiling() -> Iterator[None]:
    """Kernels that would be started in here are compiled instead, side by side: one after another they take half a minute."""
    global _compiling
    with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool):
        _compiling = True
        try:
            yield
        finally:
            _compiling = False


def start(kernel: Any, grid: tuple[int, ...], *inputs: Any, **options: Any) -> None:
    """A kernel, which may begin while the one before it ends: it has to `wait`."""
    if _compiling:
        kernel.warmup(*inputs, grid=grid, launch_pdl=True, **options)
    else:
        kernel[grid](*inputs, launch_pdl=True, **options)


@triton.jit
def wait():  # type: ignore[no-untyped-def]
    """Until the kernels before this one are done: it was started while they were at work, as the next one may be now."""
    gdc_wait()
    gdc_launch_dependents()


def room(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """For what is looked up with later: zeros while kernels are only compiled and write nothing."""
    return (like.new_zeros if _compiling else like.new_empty)(shape, dtype=dtype or like.dtype)


def rows_together(count: int) -> int:
    """Of so many rows, how many a program takes: what tensor cores multiply at once, or twice or four times that."""
    return 16 if count <= 16 else 32 if count <= 32 else 64
