"""One AdamW update of one tensor, arithmetic in float32, moments kept in their own type (V3: bfloat16; report, section 3.3.2).

On a GPU one kernel reads and writes everything once; the reference defines the meaning and serves everything else. Whether
there is an update at all is decided where the gradient lies, so that nobody has to wait for its norm.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sapience.ops.fp8_tiles import WeightBlocks


@dataclass(frozen=True)
class Update:
    """The numbers of an update."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float


def reference(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, factor: Tensor, step: Tensor, update: Update
) -> None:
    """Move the weight in place by the gradient times `factor`, the moments with it; nothing where `factor` is not finite.

    `factor` (what clipping leaves) and `step` (from one) are scalars on the tensors' device.
    """
    if not bool(factor.isfinite()):
        return
    slope = gradient.float() * factor
    mean = first.float().lerp_(slope, 1 - update.beta1)
    square = second.float().mul_(update.beta2).addcmul_(slope, slope, value=1 - update.beta2)
    first.copy_(mean)
    second.copy_(square)
    root = square.div_(1 - update.beta2 ** step.float()).sqrt_().add_(update.epsilon)
    weight.mul_(1 - update.learning_rate * update.weight_decay)
    weight.sub_(mean.div_(1 - update.beta1 ** step.float()).div_(root), alpha=update.learning_rate)


@torch.no_grad()
def adamw_(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    factor: Tensor,
    step: Tensor,
    update: Update,
    copy: Tensor | WeightBlocks | None = None,
    planes: int = 1,
) -> bool:
    """The same, by the fastest way there is; True where `copy` was written too: the weight in a narrower type, or its FP8
    blocks, as `quantize_weight` makes them of so many planes."""
    tensors = (weight, gradient, first, second)
    if not weight.is_cuda or not all(tensor.is_contiguous() for tensor in tensors):
        reference(weight, gradient, first, second, factor, step, update)
        return False
    from sapience.ops import adamw_kernel as kernel  # needs triton, which comes with PyTorch's CUDA builds alone

    if isinstance(copy, WeightBlocks):
        blocks = copy.elements, copy.scales, copy.turned, copy.turned_scales
        kernel.adamw_blocks_(weight, gradient, first, second, factor, step, blocks, planes, **asdict(update))
    else:
        kernel.adamw_(weight, gradient, first, second, factor, step, copy, **asdict(update))
    torch.autograd.graph.increment_version(weight)
    return copy is not None
