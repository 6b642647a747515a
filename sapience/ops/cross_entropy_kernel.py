"""Loss and slope of a softmax over logits in one kernel, for CUDA: two reads and one write of what else takes eight passes.

The logits are overwritten by their slope. Arithmetic in float32 whatever the logits' type, a row by one program.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def losses_and_slopes_(logits_NV: Tensor, labels_N: Tensor, ignore: int) -> Tensor:
    """-log softmax(row)[label] of every row in nats, float32 [N], zero where the label is `ignore`.

    In place of the logits stands softmax minus one-hot, zero in ignored rows. Rows have to be contiguous.
    """
    losses_N = torch.empty(logits_NV.shape[0], dtype=torch.float32, device=logits_NV.device)
    if logits_NV.shape[0]:
        _losses_and_slopes[(logits_NV.shape[0],)](
            logits_NV, labels_N, losses_N, logits_NV.stride(0), logits_NV.shape[1], ignore, BLOCK=_BLOCK, num_warps=8
        )
    return losses_N


@triton.jit
def _losses_and_slopes(logits, labels, losses, stride, width, ignore, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    lanes = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        x = tl.load(logits + start + lanes, mask=start + lanes < width, other=-1e30).to(tl.float32)
        larger = tl.maximum(largest, x)
        total = total * tl.exp(largest - larger) + tl.exp(x - larger)
        largest = larger
    highest = tl.max(largest, 0)
    normaliser = highest + tl.log(tl.sum(total * tl.exp(largest - highest), 0))
    labelled = label != ignore
    asked = tl.load(logits + tl.where(labelled, label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(labelled, normaliser - asked, 0.0))
    tl.debug_barrier()  # the label's logit has been read by all before any is overwritten
    for start in range(0, width, BLOCK):
        inside = start + lanes < width
        x = tl.load(logits + start + lanes, mask=inside, other=-1e30).to(tl.float32)
        slope = tl.exp(x - normaliser) - tl.where(start + lanes == label, 1.0, 0.0)
        tl.store(logits + start + lanes, tl.where(labelled, slope, 0.0).to(logits.dtype.element_ty), mask=inside)
