"""The gate: which experts a token goes to, with what weight, and how their load is kept even.

DeepSeek-V3 report, section 2.1.2; with `scoring_func: softmax` the gate of DeepSeek-V2 (its report, section 2.2). Balance
comes from a bias per expert that enters the choice but never the weight; the training loop nudges it once per step by the
sign of each expert's excess load. A small sequence-wise loss guards against imbalance inside one sequence. Pure functions
here; the module holds the parameters only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapience.model.batch import Exchange
from sapience.ops.choice import best_experts
from sapience.ops.wide_linear import wide_linear
from sapience.recipe.model import ModelSection


@dataclass(frozen=True)
class Routing:
    """The gate's answer for T tokens."""

    weights_TK: Tensor
    """Weight of each chosen expert's output, float32, differentiable."""
    experts_TK: Tensor
    """Which experts were chosen, int64."""
    affinities_TE: Tensor
    """Unbiased affinities, float32, differentiable: what the balance loss looks at."""


def choose_experts(affinities_TE: Tensor, bias_E: Tensor, config: ModelSection) -> Tensor:
    """The K experts with the best biased affinity, out of the best `topk_group` groups; [T, K].

    A group's score is the sum of its two best biased affinities, or its best one under DeepSeek-V2's softmax gate.
    """
    counted = 2 if config.balanced_by_bias else 1
    return best_experts(affinities_TE, bias_E, config.num_experts_per_tok, config.n_group, config.topk_group, counted)


def expert_weights(affinities_TE: Tensor, experts_TK: Tensor, config: ModelSection) -> Tensor:
    """Weights of the chosen experts: their unbiased affinities, renormalised, times `routed_scaling_factor` (eqs. 13-16)."""
    weights = affinities_TE.gather(-1, experts_TK)
    if config.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * config.routed_scaling_factor


def count_loads(experts_BTK: Tensor, valid_BT: Tensor, experts: int) -> Tensor:
    """Tokens that each expert received, padding left out; float32 [E], whole numbers."""
    ones = valid_BT.unsqueeze(-1).expand_as(experts_BTK).reshape(-1).to(torch.float32)
    return torch.zeros(experts, device=ones.device).scatter_add_(0, experts_BTK.reshape(-1), ones)


def sequence_balance(
    affinities_BTE: Tensor, choices: int, valid_BT: Tensor, exchange: Exchange | None = None
) -> Tensor:
    """Sum_i f_i P_i of every sequence (eqs. 17-20), [B]; one at perfect balance.

    f_i is E/(K T) times the tokens that rank expert i among their K best *unbiased* affinities (eq. 18); P_i is the mean
    of the affinities normalised over the experts. Padding counts in neither. Ranks that share the sequences count together,
    and each has an equal share of the result.
    """
    count = affinities_BTE.shape[-1]
    valid = valid_BT.to(affinities_BTE.dtype)
    length_B1 = valid.sum(1, keepdim=True)
    ranked = best_experts(affinities_BTE.flatten(0, 1), affinities_BTE.new_zeros(count), choices)
    ones = valid.unsqueeze(-1).expand(*valid.shape, choices).flatten(1)
    share_BE = torch.zeros_like(affinities_BTE[:, 0]).scatter_add_(1, ranked.view_as(ones), ones)
    normalised = affinities_BTE / affinities_BTE.sum(-1, keepdim=True)
    sum_BE = torch.einsum("bte,bt->be", normalised, valid)
    if exchange is not None:
        everyones = exchange.total(torch.cat((share_BE, sum_BE, length_B1), dim=-1))
        share_BE, sum_BE, length_B1 = everyones.split((count, count, 1), dim=-1)
    length_B1 = length_B1.clamp(min=1)
    balance_B = (share_BE * (count / choices) / length_B1 * (sum_BE / length_B1)).sum(-1)
    return balance_B if exchange is None else balance_B / exchange.size


def updated_bias(bias_E: Tensor, loads_E: Tensor, gamma: float | Tensor) -> Tensor:
    """b_i + gamma · sign(mean load - load_i), the loads summed over the whole step (section 2.1.2)."""
    return bias_E + gamma * torch.sign(loads_E.mean() - loads_E).to(bias_E.dtype)


def max_violation(loads_E: Tensor) -> float:
    """(largest load - mean load) / mean load: zero at perfect balance (Wang et al. 2024)."""
    mean = loads_E.mean()
    return float((loads_E.max() - mean) / mean) if mean > 0 else 0.0


def affinities_of(logits_TE: Tensor, config: ModelSection) -> Tensor:
    """A token's affinity to every expert: sigmoid (eq. 15), or DeepSeek-V2's softmax over the experts."""
    return logits_TE.sigmoid() if config.scoring_func == "sigmoid" else logits_TE.softmax(-1)


class Gate(nn.Module):
    """Affinities in float32, whatever the model's type. A softmax gate's bias stays zero."""

    bias_E: Tensor

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.config = config
        self.weight_ED = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("bias_E", torch.zeros(config.n_routed_experts))

    def forward(self, x_TD: Tensor) -> Routing:
        """Route T tokens. The bias takes part in the choice only and has no gradient."""
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        affinities = affinities_of(wide_linear(x_TD, self.weight_ED), self.config)
        experts = choose_experts(affinities.detach(), self.bias_E.to(wide), self.config)
        return Routing(expert_weights(affinities, experts, self.config), experts, affinities)
