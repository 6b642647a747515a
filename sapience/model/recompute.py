"""Selective recomputation: parts of a layer that are made again in the backward pass instead of being kept.

DeepSeek-V3 recomputes RMSNorm, MLA's up-projections and SwiGLU (report, section 3.2.3): little work, much memory. SwiGLU's
results are never kept here (`sapience.ops.swiglu_linear`, `sapience.ops.experts`); the other two are made again where a recipe
names them. What is computed again is the same to the last bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_ATTENTION = (
    "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention", "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_attention_math", "aten::_flash_attention_forward", "sapience::blocked_attention",
)  # fmt: skip
"""What is kept of attention: its backward pass takes its result, and it is not computed twice."""


def _policy(_: Any, op: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = op.name().partition(".")[0] in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def around_attention(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), of which a backward pass keeps the inputs and what attention itself needs."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return result


def after_norm(
    norm: Callable[[Tensor], Tensor], function: Callable[[Tensor], Any], hidden_BTD: Tensor, recomputed: bool
) -> Any:
    """function(norm(hidden)); the backward pass keeps the hidden states alone where the norm is to be recomputed.

    PyTorch's compiler decides that by itself: there it is the plain call.
    """
    if not recomputed or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(norm(hidden_BTD))
    result = checkpoint(norm, hidden_BTD, use_reentrant=False, preserve_rng_state=False)

    def pack(tensor: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
        same = tensor.data_ptr() == result.data_ptr() and tensor.numel() == result.numel()
        return (tensor.shape, tensor.stride()) if same and tensor.dtype == result.dtype else tensor

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return norm(hidden_BTD).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(result)
