"""A token for every row of logits by one kernel, for CUDA. Meaning: `sapience.ops.draw`.

Exponentials are in float32, their sums in float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 4096


def draw(logits_BV: Tensor, asked_B2: Tensor) -> Tensor:
    """Token and log-probability, [B, 2] in float64."""
    logits_BV = logits_BV.contiguous()
    rows, vocabulary = logits_BV.shape
    drawn_B2 = torch.empty((rows, 2), dtype=torch.float64, device=logits_BV.device)
    _draw[(rows,)](logits_BV, asked_B2, drawn_B2, vocabulary, _CHUNK, num_warps=8)
    return drawn_B2


@triton.jit
def _draw(logits, asked, drawn, vocabulary, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    logits += row.to(tl.int64) * vocabulary
    place = tl.arange(0, CHUNK)
    temperature = tl.load(asked + 2 * row).to(tl.float32)
    largest, token = float("-inf"), 0
    for start in range(0, vocabulary, CHUNK):
        part = tl.load(logits + start + place, mask=start + place < vocabulary, other=float("-inf")).to(tl.float32)
        best = tl.max(part, 0)
        if best > largest:
            largest, token = best, start + tl.argmax(part, 0)
    cold = temperature == 0
    factor = 1 / tl.where(cold, 1.0, temperature)
    plain, total = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    for start in range(0, vocabulary, CHUNK):
        part = tl.load(logits + start + place, mask=start + place < vocabulary, other=float("-inf")).to(tl.float32)
        plain += tl.sum(tl.exp(part - largest).to(tl.float64), 0)
        total += tl.sum(tl.exp((part - largest) * factor).to(tl.float64), 0)
    threshold = tl.where(cold, float("inf"), tl.load(asked + 2 * row + 1) * total)
    before = tl.zeros((), tl.float64)
    for start in range(0, vocabulary, CHUNK):
        part = tl.load(logits + start + place, mask=start + place < vocabulary, other=float("-inf")).to(tl.float32)
        chance = tl.exp((part - largest) * factor).to(tl.float64)
        after = before + tl.sum(chance, 0)
        if (before <= threshold) & (threshold < after):
            passed = tl.sum((before + tl.cumsum(chance, 0) <= threshold).to(tl.int32), 0)
            token = start + tl.minimum(passed, tl.minimum(CHUNK, vocabulary - start) - 1)
        before = after
    tl.store(drawn + 2 * row, tl.cast(token, tl.float64))
    tl.store(drawn + 2 * row + 1, tl.load(logits + token).to(tl.float64) - largest - tl.log(plain))
