"""Expert parallelism: each rank of a group has some of every layer's experts, and tokens travel to them.

A rank's copies of tokens, sorted by expert, go to the ranks that have the experts, and the outputs back; no token is dropped
(DeepSeek-V3 report, section 3.2.2). That the experts of a token are on few nodes is the gate's doing (`topk_group`). What has
arrived is to the experts here like tokens of which each has chosen one expert, so that precisions and kernels are those of a
single rank. All ranks of a group have to go through their layers at the same time.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sapience.model.feed_forward import Experts
from sapience.model.linear import Copy
from sapience.model.transformer import Transformer
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.permutation import ExpertOrder, combine, dispatch, expert_order, sort_weights
from sapience.parallel.schedule import Impossible


class SpreadExperts(Experts):
    """A rank's part of a layer's experts: the first axis of their matrices is divided among the group."""

    def __init__(self, whole: Experts, group: dist.ProcessGroup) -> None:
        """Raises Impossible where the experts cannot be divided evenly."""
        nn.Module.__init__(self)
        self.group, self.ranks = group, dist.get_world_size(group)
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

    def of_tokens(self, tokens_TD: Tensor, weights_N: Tensor, order: ExpertOrder, tiles: Tiles | None = None) -> Tensor:
        """See Experts; `order` is of all experts."""
        counts_RE = order.counts_E.view(self.ranks, -1)
        arriving_RE = torch.empty_like(counts_RE)
        dist.all_to_all_single(arriving_RE, counts_RE.contiguous(), group=self.group)
        leaving, arriving = counts_RE.sum(1).tolist(), arriving_RE.sum(1).tolist()
        rows_MD = _exchanged(dispatch(tokens_TD, order), leaving, arriving, self.group)
        weights_M = _exchanged(weights_N, leaving, arriving, self.group)
        experts = arriving_RE.shape[1]
        chosen = torch.arange(experts, device=tokens_TD.device).repeat(self.ranks)
        chosen_M = chosen.repeat_interleave(arriving_RE.flatten(), output_size=sum(arriving))
        here = expert_order(chosen_M.unsqueeze(1), experts, super().multiple)
        outputs_MD = super().of_tokens(rows_MD, sort_weights(weights_M.unsqueeze(1), here), here)
        return combine(_exchanged(outputs_MD, arriving, leaving, self.group), order)


def part_of(experts: int, rank: int, ranks: int) -> slice:
    """Which of a layer's experts a rank of a group has."""
    return slice(experts // ranks * rank, experts // ranks * (rank + 1))


def spread_experts(model: Transformer, group: dist.ProcessGroup) -> list[str]:
    """Keep a rank's part of all layers' experts, in place; the names of the parameters that have become parts. Raises
    Impossible where the experts cannot be divided evenly."""
    for block in model.gates():
        block.experts = SpreadExperts(block.experts, group)
    spread = {id(p) for block in model.gates() for p in block.experts.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in spread]


def _exchanged(rows: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup) -> Tensor:
    """What the ranks have sent here, one after another, for leaving[r] rows sent to rank r; gradients travel back."""
    result: Tensor = _Exchange.apply(rows, leaving, arriving, group)
    return result


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = (leaving, arriving), group
        return _sent(rows, leaving, arriving, group)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        leaving, arriving = ctx.sizes
        return _sent(slopes[0], arriving, leaving, ctx.group), None, None, None


def _sent(rows: Tensor, leaving: list[int], arriving: list[int], group: dist.ProcessGroup) -> Tensor:
    received = rows.new_empty(sum(arriving), *rows.shape[1:])
    dist.all_to_all_single(received, rows.contiguous(), arriving, leaving, group=group)
    return received
