"""Rows that travel between ranks and back as gradients, in two halves: others work meanwhile.

`depart` starts the messages and `arrive` waits for them. What is computed between the two calls runs beside the messages. So
does, in the backward pass, the gradient of what was computed between them: `arrive`'s gradient starts the messages back, and
`depart`'s waits for them. Messages may be in FP8, tiles of 1 x 128 with a scale each, as DeepSeek-V3 sends tokens to experts
and the gradients of experts' outputs (report, section 3.3.3); the other two ways are kept in the rows' own type.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sapience.ops.fp8_blocks import BLOCK, rounded_up
from sapience.ops.fp8_tiles import Tiles, dequantized, quantize_rows


@dataclass
class Shipment:
    """Rows that travel one way: leaving[r] of them, one after another, to rank r, and arriving[r] from it."""

    leaving: Sequence[int]
    arriving: Sequence[int]
    group: dist.ProcessGroup
    narrow: bool = False
    """In FP8."""
    _sent: list[Tensor] = field(default_factory=list)
    _received: list[Tensor] = field(default_factory=list)
    _under_way: list[dist.Work] = field(default_factory=list)
    _width: int = 0
    _dtype: torch.dtype = torch.float32

    def launch(self, rows_ND: Tensor) -> None:
        """Start the messages."""
        self._width, self._dtype = rows_ND.shape[-1], rows_ND.dtype
        self._sent = _packed(rows_ND) if self.narrow else [rows_ND.contiguous()]
        for part in self._sent:
            received = part.new_empty(sum(self.arriving), *part.shape[1:])
            work = dist.all_to_all_single(
                received, part, list(self.arriving), list(self.leaving), group=self.group, async_op=True
            )
            assert work is not None
            self._received.append(received)
            self._under_way.append(work)

    def wait(self) -> Tensor:
        """What the ranks have sent here, one after another."""
        for work in self._under_way:
            work.wait()
        received = self._received
        self._sent, self._received, self._under_way = [], [], []
        return _unpacked(received[0], received[1], self._width, self._dtype) if self.narrow else received[0]


@dataclass
class Trip:
    """An exchange that is under way."""

    ticket: Tensor
    """Nothing, but it has a gradient's path."""
    there: Shipment
    back: Shipment


def depart(
    rows_ND: Tensor,
    leaving: Sequence[int],
    arriving: Sequence[int],
    group: dist.ProcessGroup,
    narrow: bool = False,
    narrow_back: bool = False,
) -> Trip:
    """Send leaving[r] rows to rank r, one after another, to receive arriving[r] from it.

    `narrow`: they travel in FP8; `narrow_back`: their gradients do.
    """
    there = Shipment(leaving, arriving, group, narrow)
    back = Shipment(arriving, leaving, group, narrow_back)
    return Trip(_Departure.apply(rows_ND, there, back), there, back)


def arrive(trip: Trip) -> Tensor:
    """What the ranks have sent here, one after another."""
    rows: Tensor = _Arrival.apply(trip.ticket, trip.there, trip.back)
    return rows


class _Departure(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, there: Shipment, back: Shipment) -> Tensor:
        ctx.back = back
        there.launch(rows_ND)
        return rows_ND.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back.wait(), None, None


class _Arrival(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, there: Shipment, back: Shipment) -> Tensor:
        ctx.back = back
        return there.wait()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        ctx.back.launch(slopes[0])
        return slopes[0].new_empty(0), None, None


def _packed(rows_ND: Tensor) -> list[Tensor]:
    """Bytes [N, D filled up] and scales [N, D/128]."""
    count, width = rows_ND.shape
    if not count:
        across = rounded_up(width)
        return [
            rows_ND.new_empty(0, across, dtype=torch.uint8),
            rows_ND.new_empty(0, across // BLOCK, dtype=torch.float32),
        ]
    tiles = quantize_rows(rows_ND.contiguous())
    return [tiles.elements.view(torch.uint8)[:count], tiles.scales[:, :count].t().contiguous()]


def _unpacked(elements_ND: Tensor, scales_NK: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    wide = dequantized(Tiles(elements_ND.view(torch.float8_e4m3fn), scales_NK.t()))
    return wide[:, :width].to(dtype)
