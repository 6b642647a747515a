"""Feed-forward layers: SwiGLU, dense or as routed experts (DeepSeek-V3 report, section 2.1.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapience.ops.grouped import grouped_linear
from sapience.recipe.model import ModelSection


def swiglu(gate_and_up: Tensor) -> Tensor:
    """silu(first half) · second half, along the last dimension."""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


class FeedForward(nn.Module):
    """down(silu(gate x) · up x); gate and up are one matrix, gate first. Serves dense layers and shared experts."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] to […, D]."""
        y: Tensor = self.down(swiglu(self.gate_up(x)))
        return y


class Experts(nn.Module):
    """The routed experts of one layer, their matrices stacked."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_EFD = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_EDF = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert, counts[e] of them for expert e, through their expert."""
        inner_NF = swiglu(grouped_linear(rows_ND, self.gate_up_EFD, counts_E))
        return grouped_linear(inner_NF, self.down_EDF, counts_E)
