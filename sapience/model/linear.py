"""Matrices of the network, and in which numbers their products are computed.

Weights are kept as they were made (float32 in training). `Transformer.compute_in` gives every matrix between hidden states a
copy in bfloat16 or FP8, which products take; the weight itself stays what an optimizer moves and a checkpoint holds.
`Transformer.refresh` makes copies anew after the weights have changed.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapience.ops.fp8_layers import fp8_linear
from sapience.ops.fp8_tiles import Tiles, WeightBlocks, quantize_normed, quantize_weight
from sapience.ops.narrow_linear import narrow_linear
from sapience.ops.put_off import is_expected

Precision = Literal["fp32", "bf16", "fp8"]
"""`fp32`: the weights themselves, whatever their type. `bf16`: hidden states and copies in bfloat16. `fp8`: hidden states in
bfloat16; linear layers and experts in FP8 by V3's scheme (report, section 3.3), everything else in bfloat16."""


class Copy(nn.Module):
    """A stack of matrices [E, J, K] (or one) in bfloat16 or in FP8 blocks; no part of a checkpoint."""

    narrow: Tensor | None
    elements: Tensor | None
    scales: Tensor | None
    turned: Tensor | None
    turned_scales: Tensor | None

    def __init__(self, planes: int = 1, fp8: bool = True) -> None:
        """Of `planes` matrices of equal size, one above the other; without `fp8` the copy is in bfloat16 instead."""
        super().__init__()
        self.planes, self.fp8 = planes, fp8
        self.precision: Precision = "fp32"
        self.seen = -1
        """Version of the weight that was copied."""
        self.needless = False
        """Whether the weight comes in the type of the hidden states by itself: gathered from ranks that have its rows between
        them."""
        for name in ("narrow", "elements", "scales", "turned", "turned_scales"):
            self.register_buffer(name, None, persistent=False)

    @property
    def blocks(self) -> WeightBlocks:
        """The FP8 blocks. Raises ValueError in another precision."""
        if self.elements is None or self.scales is None or self.turned is None or self.turned_scales is None:
            raise ValueError(f"there are no FP8 blocks in {self.precision}")
        return WeightBlocks(self.elements, self.scales, self.turned, self.turned_scales)

    @property
    def current(self) -> Tensor | WeightBlocks | None:
        """What products take in place of the weight; None where that is the weight itself."""
        return self.narrow if self.elements is None else self.blocks

    def make(self, weight: Tensor, precision: Precision) -> None:
        """Copy the weight in this precision, unless that has been done."""
        precision = "bf16" if precision == "fp8" and not self.fp8 else precision
        if precision != self.precision or self.seen != weight._version:
            # Copies made while sampling must still be good for training, which keeps them for the backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._make(weight, precision)

    def stale(self, weight: Tensor) -> bool:
        """Whether the weight has changed since it was copied."""
        return self.seen != weight._version

    def _make(self, weight: Tensor, precision: Precision) -> None:
        self.narrow = weight.detach().to(torch.bfloat16) if precision == "bf16" else None
        self.elements = self.scales = self.turned = self.turned_scales = None
        if precision == "fp8":
            stacked = weight.detach().view(-1, weight.shape[-2] // self.planes, weight.shape[-1])
            made = quantize_weight(stacked, self.planes)
            self.elements, self.scales = made.elements, made.scales
            self.turned, self.turned_scales = made.turned, made.turned_scales
        self.precision, self.seen = precision, weight._version


def refresh(copies: Sequence[tuple[Tensor, Copy]]) -> None:
    """Make the copies of changed weights anew: those in bfloat16 all in one go."""
    stale = [(weight, copy) for weight, copy in copies if copy.stale(weight)]
    narrow = [(weight, copy, copy.narrow) for weight, copy in stale if copy.narrow is not None]
    if narrow:
        with torch.inference_mode(False), torch.no_grad():
            torch._foreach_copy_([kept for _, _, kept in narrow], [weight for weight, _, _ in narrow])
    for weight, copy, _ in narrow:
        copy.seen = weight._version
    for weight, copy in stale:
        copy.make(weight, copy.precision)


class Linear(nn.Linear):
    """x weight^T, without a bias."""

    def __init__(self, inputs: int, outputs: int, planes: int = 1, fp8: bool = True) -> None:
        """`planes` and `fp8`: see Copy."""
        super().__init__(inputs, outputs, bias=False)
        self.copy = Copy(planes, fp8)

    @property
    def matrix(self) -> Tensor:
        """The weight as a plain matrix [J, K] in the type of the hidden states."""
        if self.copy.precision == "fp8":
            return self.weight.to(torch.bfloat16)
        return self.weight if self.copy.narrow is None else self.copy.narrow

    def copies(self) -> list[tuple[Tensor, Copy]]:
        """The weight and its copy, where it may need one."""
        return [] if self.copy.needless else [(self.weight, self.copy)]

    def forward(self, x: Tensor) -> Tensor:
        """[…, K] to […, J]."""
        if self.copy.precision == "fp8":
            return fp8_linear(x, self.weight, self.copy.blocks)
        if self.copy.narrow is not None:
            return narrow_linear(x, self.weight, self.copy.narrow)
        if is_expected():
            return narrow_linear(x, self.weight, self.weight)
        return functional.linear(x, self.weight)


class RMSNorm(nn.RMSNorm):
    """x over its root mean square, times the weight; in float32 where x is narrower than the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] to […, D] in x's type."""
        if x.dtype == self.weight.dtype:
            return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        wide = x.to(self.weight.dtype)
        return functional.rms_norm(wide, self.normalized_shape, self.weight, self.eps).to(x.dtype)

    @torch.no_grad()
    def tiles(self, x: Tensor) -> Tiles:
        """Of the result's rows in FP8: on a GPU by one kernel, which does not write the result. No gradient."""
        assert self.eps is not None
        return quantize_normed(x.reshape(-1, x.shape[-1]), self.weight, self.eps)
