"""A chunk of a pipeline in pieces, cut where tokens are on their way to experts or back.

Between two pieces a message is under way, and another chunk can work. The forward chunk of one direction and the backward
chunk of the other take turns so (DeepSeek-V3 report, section 3.2.1, figure 4): while one's tokens travel, the other's experts
or attention work. Pieces are ends of graphs of their own: a backward pass goes through them from behind, and sends between
them what autograd would have sent.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sapience.model.block import Context, ExpertBlock, Router
from sapience.model.transformer import Transformer
from sapience.ops.permutation import ExpertOrder
from sapience.parallel.all_to_all import Shipment
from sapience.parallel.experts import Crossing, SpreadExperts

Steps = Generator[None, None, None]
"""Work that stops wherever its messages are under way and others may go on."""


def in_turns(forward: Steps, backward: Steps) -> None:
    """How a pair of chunks runs: a piece of the backward chunk, one of the forward chunk, and so on."""
    going = [backward, forward]
    while going:
        going = [steps for steps in going if next(steps, _END) is None]


_END = object()


class _Entrance:
    """Where numbers come into a piece. What they are need not be kept, and what their gradient is will be known here."""

    def __init__(self) -> None:
        self.slope: Tensor | None = None

    def enter(self, numbers: Tensor) -> Tensor:
        entered: Tensor = _Enter.apply(numbers.new_empty(0).requires_grad_(), numbers.detach(), self)
        return entered

    def taken(self) -> Tensor:
        """The gradient, once."""
        slope, self.slope = self.slope, None
        assert slope is not None
        return slope


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, numbers: Tensor, entrance: _Entrance) -> Tensor:
        ctx.entrance = entrance
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None, None]:
        ctx.entrance.slope = slopes[0]
        return None, None, None


@dataclass(frozen=True)
class _Cut:
    """A layer whose tokens have travelled: ends of graphs, and the entrances from which gradients go on to them."""

    experts: SpreadExperts
    crossing: Crossing
    before: tuple[tuple[GradientEdge, _Entrance], ...]
    """In front of the experts: residual stream, tokens for the shared experts, balance; each with where it went on."""
    dispatched: tuple[GradientEdge, GradientEdge]
    """Rows and weights that left."""
    arrived: tuple[_Entrance, _Entrance]
    """Rows and weights, here."""
    made: GradientEdge
    """The experts' outputs, here."""
    returned: _Entrance
    shared: tuple[GradientEdge, _Entrance] | None
    """The shared experts' outputs."""


@dataclass
class Pieces:
    """The pieces of a chunk. `forward` can be called once, then `backward` once."""

    model: Transformer
    layers: range
    context: Context
    _end: list[Tensor] = field(default_factory=list)
    _routers: list[Router] = field(default_factory=list)
    _cuts: list[_Cut] = field(default_factory=list)

    def forward(self, hidden_BTD: Tensor) -> Steps:
        """From the hidden states in front of the layers."""
        for index in self.layers:
            layer = self.model.layers[index]
            if isinstance(layer, ExpertBlock) and isinstance(layer.experts, SpreadExperts):
                hidden_BTD = yield from self._through(layer, layer.experts, hidden_BTD)
            else:
                hidden_BTD, router = layer(hidden_BTD, self.context)
                self._routers += [] if router is None else [router]
        self._end.append(hidden_BTD)

    @property
    def end(self) -> tuple[Tensor, list[Router]]:
        """When `forward` has ended: the hidden states behind the layers, and the routers. They are a part of the last piece,
        and so is all that is made of them."""
        return self._end[0], self._routers

    def _through(self, layer: ExpertBlock, experts: SpreadExperts, hidden_BTD: Tensor) -> Generator[None, None, Tensor]:
        rest, tokens, balance, beside, rows_here, weights_here, returned = (_Entrance() for _ in range(7))
        edges: list[GradientEdge] = []
        sent: list[tuple[ExpertOrder, Crossing, Shipment, Shipment]] = []

        def leave(x_TD: Tensor, rows_ND: Tensor, weights_N: Tensor, order: ExpertOrder) -> Tensor:
            crossing = experts.crossing(order)
            ways = crossing.leaving, crossing.arriving, experts.group
            rows, weights = Shipment(*ways, experts.narrow), Shipment(*ways)
            rows.launch(rows_ND.detach())
            weights.launch(weights_N.detach())
            edges.extend(map(get_gradient_edge, (x_TD, rows_ND, weights_N)))
            sent.append((order, crossing, rows, weights))
            return tokens.enter(x_TD)

        hidden_BTD, shared_TD, router = layer.until_dispatch(hidden_BTD, self.context, leave)
        order, crossing, rows, weights = sent.pop()
        x_edge, rows_edge, weights_edge = edges
        hidden_edge, hidden_BTD = get_gradient_edge(hidden_BTD), hidden_BTD.detach()
        shared = None
        if shared_TD is not None:
            shared, shared_TD = (get_gradient_edge(shared_TD), beside), shared_TD.detach()
        self._routers.append(Router(router.loads_E, balance.enter(router.balance_B)))
        before = (hidden_edge, rest), (x_edge, tokens), (get_gradient_edge(router.balance_B), balance)
        yield
        outputs_MD = experts.here(rows_here.enter(rows.wait()), weights_here.enter(weights.wait()), crossing)
        home = Shipment(crossing.arriving, crossing.leaving, experts.group)
        home.launch(outputs_MD.detach())
        made = get_gradient_edge(outputs_MD)
        del outputs_MD
        yield
        arrived = rows_here, weights_here
        cut = _Cut(experts, crossing, before, (rows_edge, weights_edge), arrived, made, returned, shared)
        self._cuts.append(cut)
        added_TD = None if shared_TD is None else beside.enter(shared_TD)
        return layer.combine(rest.enter(hidden_BTD), returned.enter(home.wait()), order, added_TD)

    def backward(self, ends: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> Steps:
        """From the ends of the last piece: gradients reach the weights, and what entered the first piece."""
        torch.autograd.backward(ends, slopes)
        while self._cuts:
            cut = self._cuts.pop()
            group, leaving, arriving = cut.experts.group, cut.crossing.leaving, cut.crossing.arriving
            there = Shipment(leaving, arriving, group, cut.experts.narrow)
            there.launch(cut.returned.taken())
            yield
            torch.autograd.backward(cut.made, there.wait())
            rows, weights = Shipment(arriving, leaving, group), Shipment(arriving, leaving, group)
            rows.launch(cut.arrived[0].taken())
            weights.launch(cut.arrived[1].taken())
            if cut.shared is not None:
                outputs, beside = cut.shared
                torch.autograd.backward(outputs, beside.taken())
            yield
            reached = [(edge, entrance.taken()) for edge, entrance in cut.before if entrance.slope is not None]
            reached += zip(cut.dispatched, (rows.wait(), weights.wait()), strict=True)
            torch.autograd.backward([edge for edge, _ in reached], [slope for _, slope in reached])
