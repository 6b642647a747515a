"""Expert parallelism: each rank of a group has some of every layer's experts, and tokens travel to them.

A rank's copies of tokens, sorted by expert, go to the ranks that have the experts, and the outputs back; no token is dropped
(DeepSeek-V3 report, section 3.2.2). That the experts of a token are on few nodes is the gate's doing (`topk_group`). What has
arrived is to the experts here like tokens of which each has chosen one expert, so that precisions and kernels are those of a
single rank. The shared experts work while tokens travel. All ranks of a group have to go through their layers together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sapience.model.feed_forward import Experts
from sapience.model.linear import Copy
from sapience.model.transformer import Transformer
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.permutation import ExpertOrder, combine, dispatch, expert_order, sort_weights
from sapience.parallel.all_to_all import arrive, depart
from sapience.parallel.schedule import Impossible


@dataclass(frozen=True)
class Crossing:
    """How copies of a layer's tokens travel."""

    leaving: list[int]
    """To each rank of the group."""
    arriving: list[int]
    """From each."""
    arriving_RE: Tensor
    """The same, for each of the experts here."""


class SpreadExperts(Experts):
    """A rank's part of a layer's experts: the first axis of their matrices is divided among the group."""

    compiles = False  # how many rows travel is known when they do: every other number would be compiled anew

    def __init__(self, whole: Experts, group: dist.ProcessGroup, narrow: bool = False) -> None:
        """`narrow`: what travels to experts is in FP8. Raises Impossible where the experts cannot be divided evenly."""
        nn.Module.__init__(self)
        self.group, self.ranks, self.narrow = group, dist.get_world_size(group), narrow
        experts = len(whole.gate_up_EFD)
        if experts % self.ranks:
            raise Impossible(f"{experts} experts cannot be divided among {self.ranks} ranks")
        part = part_of(experts, dist.get_rank(group), self.ranks)
        self.gate_up_EFD = nn.Parameter(whole.gate_up_EFD.detach()[part].clone())
        self.down_EDF = nn.Parameter(whole.down_EDF.detach()[part].clone())
        self.gate_up_copy, self.down_copy = Copy(planes=2), Copy()

    @property
    def multiple(self) -> int:
        """Copies travel without empty places between them."""
        return 1

    def of_tokens(
        self,
        tokens_TD: Tensor,
        weights_N: Tensor,
        order: ExpertOrder,
        tiles: Tiles | None = None,
        beside: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """See Experts; `order` is of all experts."""
        crossing = self.crossing(order)
        ways = crossing.leaving, crossing.arriving, self.group
        rows = depart(dispatch(tokens_TD, order), *ways, narrow=self.narrow)
        weights = depart(weights_N, *ways)
        added_TD = None if beside is None else beside()
        outputs_MD = self.here(arrive(rows), arrive(weights), crossing)
        outputs = depart(outputs_MD, crossing.arriving, crossing.leaving, self.group, narrow_back=self.narrow)
        mixed_TD = combine(arrive(outputs), order)
        return mixed_TD if added_TD is None else mixed_TD + added_TD

    def crossing(self, order: ExpertOrder) -> Crossing:
        """How many copies of tokens go where; all ranks of the group tell each other."""
        counts_RE = order.counts_E.view(self.ranks, -1)
        arriving_RE = torch.empty_like(counts_RE)
        dist.all_to_all_single(arriving_RE, counts_RE.contiguous(), group=self.group)
        return Crossing(counts_RE.sum(1).tolist(), arriving_RE.sum(1).tolist(), arriving_RE)

    def here(self, rows_MD: Tensor, weights_M: Tensor, crossing: Crossing) -> Tensor:
        """What this rank's experts make of the rows that have arrived, times their weights, in the order of arrival."""
        ranks, experts = crossing.arriving_RE.shape
        chosen = torch.arange(experts, device=rows_MD.device).repeat(ranks)
        chosen_M = chosen.repeat_interleave(crossing.arriving_RE.flatten(), output_size=sum(crossing.arriving))
        order = expert_order(chosen_M.unsqueeze(1), experts, super().multiple)
        return super().of_tokens(rows_MD, sort_weights(weights_M.unsqueeze(1), order), order)


def part_of(experts: int, rank: int, ranks: int) -> slice:
    """Which of a layer's experts a rank of a group has."""
    return slice(experts // ranks * rank, experts // ranks * (rank + 1))


def spread_experts(model: Transformer, group: dist.ProcessGroup, narrow: bool = False) -> list[str]:
    """Keep a rank's part of all layers' experts, in place; the names of the parameters that have become parts. See
    SpreadExperts."""
    for block in model.gates():
        block.experts = SpreadExperts(block.experts, group, narrow)
    spread = {id(p) for block in model.gates() for p in block.experts.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in spread]
