"""Turning pairs of numbers by their position's angle. What the angles are: `sapience.model.rope`."""

import torch
from torch import Tensor


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn adjacent pairs of x [..., T, h, P] by the angles in cosines and sines [..., T, P/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cosines, sines = cosines.unsqueeze(-2).to(x.dtype), sines.unsqueeze(-2).to(x.dtype)
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1).flatten(-2)
