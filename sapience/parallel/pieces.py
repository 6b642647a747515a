"""A chunk of a pipeline in pieces, cut where tokens are on their way to experts or back.

Between two pieces a message is under way, and another chunk can work. The forward chunk of one direction and the backward
chunk of the other take turns so (DeepSeek-V3 report, section 3.2.1, figure 4): while one's tokens travel, the other's experts
or attention work. Pieces are ends of graphs of their own: a backward pass goes through them from behind, and sends between
them what autograd would have sent.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class _Cut:
    """A layer whose tokens have travelled; gradients of what went into it come out of what it left behind."""

    experts: SpreadExperts
    crossing: Crossing
    before: tuple[GradientEdge, ...]
    """Ends of the piece in front of the experts: the rest of the residual stream, rows, weights, balance."""
    arrived: tuple[Tensor, Tensor]
    """Rows and weights, here."""
    made: GradientEdge
    """The experts' outputs, here."""
    returned: Tensor
    rest: Tensor
    balance: Tensor


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
        sent: list[tuple[Tensor, Tensor, ExpertOrder, Crossing, Shipment, Shipment]] = []

        def leave(rows_ND: Tensor, weights_N: Tensor, order: ExpertOrder) -> None:
            crossing = experts.crossing(order)
            ways = crossing.leaving, crossing.arriving, experts.group
            rows, weights = Shipment(*ways, experts.narrow), Shipment(*ways)
            rows.launch(rows_ND.detach())
            weights.launch(weights_N.detach())
            sent.append((rows_ND, weights_N, order, crossing, rows, weights))

        rest_BTD, router = layer.until_dispatch(hidden_BTD, self.context, leave)
        ((rows_ND, weights_N, order, crossing, rows, weights),) = sent
        sent.clear()
        before = tuple(map(get_gradient_edge, (rest_BTD, rows_ND, weights_N, router.balance_B)))
        del rows_ND, weights_N  # the messages have them until they have arrived
        rest_BTD = rest_BTD.detach().requires_grad_()
        balance_B = router.balance_B.detach().requires_grad_()
        self._routers.append(Router(router.loads_E, balance_B))
        yield
        rows_MD, weights_M = rows.wait().requires_grad_(), weights.wait().requires_grad_()
        outputs_MD = experts.here(rows_MD, weights_M, crossing)
        home = Shipment(crossing.arriving, crossing.leaving, experts.group)
        home.launch(outputs_MD.detach())
        made = get_gradient_edge(outputs_MD)
        del outputs_MD
        yield
        returned_ND = home.wait().requires_grad_()
        self._cuts.append(_Cut(experts, crossing, before, (rows_MD, weights_M), made, returned_ND, rest_BTD, balance_B))
        return layer.combine(rest_BTD, returned_ND, order)

    def backward(self, ends: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> Steps:
        """From the ends of the last piece: gradients reach the weights, and what entered the first piece."""
        torch.autograd.backward(ends, slopes)
        while self._cuts:
            cut = self._cuts.pop()
            group, leaving, arriving = cut.experts.group, cut.crossing.leaving, cut.crossing.arriving
            there = Shipment(leaving, arriving, group, cut.experts.narrow)
            there.launch(_gradient(cut.returned))
            yield
            torch.autograd.backward(cut.made, there.wait())
            rows, weights = Shipment(arriving, leaving, group), Shipment(arriving, leaving, group)
            rows.launch(_gradient(cut.arrived[0]))
            weights.launch(_gradient(cut.arrived[1]))
            yield
            slope = [_gradient(cut.rest), rows.wait(), weights.wait(), cut.balance.grad]
            reached = [(end, each) for end, each in zip(cut.before, slope, strict=True) if each is not None]
            torch.autograd.backward([end for end, _ in reached], [each for _, each in reached])


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
