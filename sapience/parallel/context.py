"""Context parallelism: ranks share the places of their rows, for contexts that are too long for one.

Queries stay where they are; every layer gathers what latent attention would keep in a cache, one narrow latent and one rotary
key a token (R + P numbers; keys and values of all heads are some seventy times as many in DeepSeek-V3's shape), and each rank
unfolds it. So attention is exact whatever the mask, and a rank does the products of its own places; only the unfolding of keys
and values is done by all of them. A row is cut into twice as many pieces as there are ranks and each takes one from either
end: under causality all have the same work.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from sapience.model.batch import Microbatch, SharedRows
from sapience.ops.cross_entropy import IGNORE
from sapience.parallel.mesh import zig_zag


class ContextGroup:
    """The ranks that share rows: an `Exchange`."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank = group, dist.get_rank(group)
        self._gather, self._total = (torch.compiler.disable(each.apply) for each in (_Gather, _Total))

    @property
    def size(self) -> int:
        """Of the ranks."""
        return dist.get_world_size(self.group)

    def gathered(self, x_BTd: Tensor) -> Tensor:
        """All places of the rows in their order, [B,S,d]."""
        result: Tensor = self._gather(x_BTd, self.group)
        return result

    def total(self, x: Tensor) -> Tensor:
        """The sum of every rank's."""
        result: Tensor = self._total(x, self.group)
        return result

    def part(self, batch: Microbatch) -> Microbatch:
        """This rank's places. Rows are filled up to a multiple of two pieces a rank, with padding."""
        length, pieces = batch.tokens_BT.shape[1], 2 * self.size
        whole = _filled(batch, -length % pieces)
        piece = whole.tokens_BT.shape[1] // pieces
        ends = [(number + 1) * piece for number in zig_zag(self.rank, self.size)]
        places_T = torch.cat([torch.arange(end - piece, end) for end in ends])
        stretches = tuple((i * piece, (i + 1) * piece, end) for i, end in enumerate(ends))
        return replace(
            whole,
            tokens_BT=whole.tokens_BT[:, places_T],
            labels_BT=whole.labels_BT[:, places_T],
            documents_BT=whole.documents_BT[:, places_T],
            positions_BT=None if whole.positions_BT is None else whole.positions_BT[:, places_T],
            shared=SharedRows(whole, places_T, stretches, self),
        )


def _filled(batch: Microbatch, missing: int) -> Microbatch:
    def longer(x_BT: Tensor, value: int) -> Tensor:
        return functional.pad(x_BT, (0, missing), value=value)

    return replace(
        batch,
        tokens_BT=longer(batch.tokens_BT, 0),
        labels_BT=longer(batch.labels_BT, IGNORE),
        documents_BT=longer(batch.documents_BT, -1),
        positions_BT=None if batch.positions_BT is None else longer(batch.positions_BT, 0),
    )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTd: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        everyones = [torch.empty_like(x_BTd, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(everyones, x_BTd.contiguous(), group=group)
        halves = [each.chunk(2, dim=1) for each in everyones]
        return torch.cat([first for first, _ in halves] + [last for _, last in reversed(halves)], dim=1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.group.size()
        pieces = slopes[0].chunk(2 * ranks, dim=1)
        leaving = torch.stack([torch.cat((pieces[rank], pieces[-1 - rank]), dim=1) for rank in range(ranks)])
        arriving = torch.empty_like(leaving)
        dist.all_to_all_single(arriving, leaving, group=ctx.group)
        return arriving.sum(0), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return _summed(slopes[0], ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, group=group)
    return result
