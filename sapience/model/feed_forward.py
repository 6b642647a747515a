"""Feed-forward layers: SwiGLU, dense or as routed experts (DeepSeek-V3 report, section 2.1.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sapience.model.linear import Copy, Linear
from sapience.ops.experts import ExpertWeights, routed_experts, sorted_experts
from sapience.ops.fp8_blocks import BLOCK
from sapience.ops.fp8_layers import fp8_experts, fp8_feed_forward
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.permutation import ExpertOrder
from sapience.ops.swiglu_linear import swiglu_linear
from sapience.recipe.model import ModelSection


class FeedForward(nn.Module):
    """down(silu(gate x) · up x); gate and up are one matrix, gate first. Serves dense layers and shared experts."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden, 2 * inner, planes=2)
        self.down = Linear(inner, hidden)

    def forward(self, x: Tensor, tiles: Tiles | None = None) -> Tensor:
        """[…, D] to […, D]. `tiles`: x's, for FP8, where they have been made."""
        if self.down.copy.precision == "fp8":
            blocks = self.gate_up.copy.blocks, self.down.copy.blocks
            return fp8_feed_forward(x, self.gate_up.weight, self.down.weight, *blocks, tiles)
        return swiglu_linear(self.gate_up(x), self.down.weight, self.down.matrix)


class Experts(nn.Module):
    """The routed experts of one layer, their matrices stacked. The gate's weights are applied inside."""

    compiles = True
    """Whether a compiler can make something of `of_tokens`."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_EFD = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_EDF = nn.Parameter(torch.empty(experts, hidden, inner))
        self.gate_up_copy = Copy(planes=2)
        self.down_copy = Copy()

    @property
    def multiple(self) -> int:
        """Of what the rows of an expert have to be a multiple."""
        return BLOCK if self._in_fp8 else 1

    @property
    def _in_fp8(self) -> bool:
        return self.down_copy.precision == "fp8"

    def copies(self) -> list[tuple[Tensor, Copy]]:
        """The weights and their copies, where they may need any."""
        pairs = (self.gate_up_EFD, self.gate_up_copy), (self.down_EDF, self.down_copy)
        return [(weight, copy) for weight, copy in pairs if not copy.needless]

    def forward(self, rows_ND: Tensor, weights_N: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert, counts[e] of them for expert e, through their expert, times their weight."""
        return sorted_experts(rows_ND, weights_N, self._matrices(), counts_E)

    def of_tokens(
        self,
        tokens_TD: Tensor,
        weights_N: Tensor,
        order: ExpertOrder,
        tiles: Tiles | None = None,
        beside: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """The same of the tokens' copies in this order, summed over each token's: [T, D]. The copies are not kept.

        `tiles`: the tokens', for FP8, where they have been made. `beside` makes what else is added to every token: it can be
        made while tokens are on their way, where they have a way to go.
        """
        if self._in_fp8:
            blocks = self.gate_up_copy.blocks, self.down_copy.blocks
            mixed_TD = fp8_experts(tokens_TD, weights_N, self.gate_up_EFD, self.down_EDF, *blocks, order, tiles)
        else:
            mixed_TD = routed_experts(tokens_TD, weights_N, self._matrices(), order)
        return mixed_TD if beside is None else mixed_TD + beside()

    def _matrices(self) -> ExpertWeights:
        gate_up = self.gate_up_EFD if self.gate_up_copy.narrow is None else self.gate_up_copy.narrow
        down = self.down_EDF if self.down_copy.narrow is None else self.down_copy.narrow
        return ExpertWeights(self.gate_up_EFD, self.down_EDF, gate_up, down)
