"""The best experts of a token, out of the best groups of experts: the gate's choice.

On a GPU one kernel (`choice_kernel`) does it; the reference defines the meaning and serves everything else. Which of several
equal affinities is taken is nobody's promise.
"""

import torch
from torch import Tensor


def reference(
    affinities_TE: Tensor, bias_E: Tensor, choices: int, groups: int = 1, open_groups: int = 1, counted: int = 1
) -> Tensor:
    """The `choices` experts with the best affinity + bias out of the `open_groups` best groups, [T, choices] in int64.

    A group's score is the sum of its `counted` best; experts outside of the open groups are masked with -inf (masking with
    zero, as some implementations do, lets them win where biased affinities are negative).
    """
    biased = affinities_TE + bias_E
    if groups > 1:
        grouped_TGe = biased.unflatten(-1, (groups, -1))
        scores_TG = grouped_TGe.topk(counted, dim=-1).values.sum(-1)
        kept = scores_TG.topk(open_groups, dim=-1, sorted=False).indices
        open_TG = torch.zeros_like(scores_TG, dtype=torch.bool).scatter_(-1, kept, True)
        biased = grouped_TGe.masked_fill(~open_TG.unsqueeze(-1), float("-inf")).flatten(-2)
    return biased.topk(choices, dim=-1, sorted=False).indices


def best_experts(
    affinities_TE: Tensor, bias_E: Tensor, choices: int, groups: int = 1, open_groups: int = 1, counted: int = 1
) -> Tensor:
    """The same, by the fastest way there is. No gradient."""
    affinities, bias = affinities_TE.detach(), bias_E.detach()
    if affinities.is_cuda and affinities.dtype == bias.dtype == torch.float32:
        from sapience.ops import choice_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

        if choice_kernel.fits(affinities.shape[-1], groups):
            return choice_kernel.best_experts(affinities, bias, choices, groups, open_groups, counted)
    return reference(affinities, bias, choices, groups, open_groups, counted)
