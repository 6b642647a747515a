"""A token for every row of logits: the largest, or by the inverse of the distribution function."""

import torch
from torch import Tensor


def reference(logits_BV: Tensor, asked_B2: Tensor) -> Tensor:
    """Of temperature (zero takes the largest) and random number from 0 to 1: the token and its log-probability at temperature
    one, [B, 2] in float64."""
    temperatures_B, uniforms_B = asked_B2.unbind(1)
    cold_B = temperatures_B == 0
    scaled_BV = logits_BV.double() / torch.where(cold_B, 1.0, temperatures_B).unsqueeze(1)
    token_B = torch.where(cold_B, logits_BV.argmax(-1), pick(scaled_BV.softmax(-1), uniforms_B))
    logprob_B = logits_BV.log_softmax(-1).gather(1, token_B.unsqueeze(1)).squeeze(1)
    return torch.stack((token_B.double(), logprob_B.double()), dim=1)


def pick(chance_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first token up to which chances add up to more than the random number's share of them; [B]."""
    cumulative_BV = chance_BV.cumsum(-1)
    total_B = cumulative_BV[:, -1]
    threshold_B = torch.minimum(uniforms_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    return (cumulative_BV <= threshold_B.unsqueeze(1)).sum(-1).clamp(max=chance_BV.shape[1] - 1)


def draw(logits_BV: Tensor, asked_B2: Tensor) -> Tensor:
    """The same by the fastest way there is; exponentials in float32 on a GPU."""
    if not logits_BV.is_cuda:
        return reference(logits_BV, asked_B2)
    from sapience.ops import draw_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

    return draw_kernel.draw(logits_BV, asked_B2)
