"""Data parallelism: every rank of a group takes some of a step's micro-batches, and gradients are added up.

With ZeRO-1 (Rajbhandari et al. 2020; what V3 uses, report section 3.2) each parameter has one owner in the group: gradients go
to it alone, it alone keeps moments and moves the weight, and gives it to the others. Parameters are owned whole, so that Muon,
which orthogonalises matrices, and the kernels that write a weight's copy need not know of it. Weights that no rank has whole
(`parallel/sharded_weights.py`) have no owner: each rank gets the gradient of its rows, and moves them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sapience.model.batch import Microbatch
from sapience.model.transformer import Transformer
from sapience.parallel.context import ContextGroup
from sapience.parallel.executor import StepExecutor, Sums
from sapience.parallel.schedule import Impossible
from sapience.parallel.sharded_weights import ShardedWeights

BUCKET = 1 << 25
"""Elements that are added up at once."""


class Part(Protocol):
    """What holds a part of the model, such as a pipeline's rank."""

    def counts(self, name: str) -> bool:
        """Whether this rank counts a parameter in sums over all of the model's."""

    def total(self, square: Tensor) -> Tensor:
        """The sum of every rank's."""


class DataParallel:
    """A step executor around another one, which does this rank's share; and what an optimizer asks (`optimizer.Shared`)."""

    def __init__(
        self,
        model: Transformer,
        inner: StepExecutor,
        names: Sequence[str],
        group: dist.ProcessGroup,
        part: Part | None = None,
        sharded: bool = False,
        apart: Mapping[str, dist.ProcessGroup] | None = None,
        context: ContextGroup | None = None,
        cut: ShardedWeights | None = None,
    ) -> None:
        """`names`: of the sums that are reported. `part`: the inner executor where it has a part of the model only. `sharded`:
        ZeRO-1. `apart`: parameters that not all of the group hold alike, such as experts, each with the group that does.
        `context`: those of the group that share rows; they are neighbours in it. `cut`: weights of which ranks have rows only.
        """
        self.model, self.inner, self.names, self.part, self.sharded = model, inner, tuple(names), part, sharded
        self.group, self.context, self.cut = group, context, cut
        together = 1 if context is None else context.size
        self.reader, self.readers = dist.get_rank(group) // together, dist.get_world_size(group) // together
        parameters = {name: p for name, p in model.named_parameters() if cut is None or name not in cut.groups}
        apart = {name: each for name, each in (apart or {}).items() if name in parameters}
        self._sets: list[tuple[dist.ProcessGroup, list[str]]] = [
            (group, [name for name in parameters if name not in apart])
        ]
        for alone in {id(each): each for each in apart.values()}.values():
            self._sets.append((alone, [name for name, each in apart.items() if each is alone]))
        self._owner: dict[str, int] = {}
        self._rank_for: dict[str, int] = {}
        for each, held in self._sets:
            self._rank_for |= dict.fromkeys(held, dist.get_rank(each))
            self._owner |= _owners({name: parameters[name] for name in held}, dist.get_world_size(each), sharded)

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        """See StepExecutor. Raises ValueError for an empty step or a denominator that is not positive, and Impossible where
        ranks that have to keep step would get different numbers of micro-batches."""
        if not microbatches or not denominator > 0:
            raise ValueError(f"a step needs micro-batches and a positive denominator, got {denominator}")
        if (len(self._sets) > 1 or self.cut is not None) and len(microbatches) % self.readers:
            raise Impossible(
                f"{len(microbatches)} micro-batches are no multiple of {self.readers} ranks that share experts or weights"
            )
        share = microbatches[self.reader :: self.readers]
        if self.context is not None:
            share = [self.context.part(batch) for batch in share]
        sums = self.inner.forward_backward(share, denominator) if share else self._nothing()
        self._add_up_gradients()
        if self.cut is not None:
            self.cut.take_gradients()
        flat = torch.cat((torch.stack([sums.values[n].double() for n in self.names]), sums.loads_LE.double().flatten()))
        dist.all_reduce(flat, group=self.group)
        values = dict(zip(self.names, flat[: len(self.names)].unbind(), strict=True))
        return Sums(values, flat[len(self.names) :].view_as(sums.loads_LE).to(sums.loads_LE.dtype))

    def parameters(self) -> dict[str, nn.Parameter]:
        """What an optimizer moves here: the model's parameters, and this rank's rows of those that are cut."""
        slices = {} if self.cut is None else self.cut.slices
        return {name: slices.get(name, parameter) for name, parameter in self.model.named_parameters()}

    def counts(self, name: str) -> bool:
        """Whether this rank counts a parameter in sums over all of the model's: its owner does, or each its rows."""
        return self.owns(name) and (self.part is None or self.part.counts(name))

    def owns(self, name: str) -> bool:
        """Whether this rank is the parameter's owner in its group: with ZeRO-1 the only one that has its moments. Of a
        parameter that is cut each owns its rows."""
        return name not in self._owner or self._owner[name] == self._rank_for[name]

    def total(self, square: Tensor) -> Tensor:
        """The sum of every rank's."""
        square = square.clone() if self.part is None else self.part.total(square)
        dist.all_reduce(square, group=self.group)
        return square

    def moved(self) -> None:
        """The optimizer has moved the weights that it had gradients of: the others are given them."""
        if not self.sharded:
            return
        parameters = dict(self.model.named_parameters())
        for group, names in self._sets:
            for owner, bucket in self._buckets(parameters, names):
                flat = torch.cat([parameters[name].detach().flatten() for name in bucket])
                dist.broadcast(flat, group=group, group_src=owner)
                if owner != dist.get_rank(group):
                    _put(flat, [parameters[name] for name in bucket], _overwrite)

    def _add_up_gradients(self) -> None:
        parameters = dict(self.model.named_parameters())
        for group, names in self._sets:
            for owner, bucket in self._buckets(parameters, names):
                held = [parameters[name] for name in bucket]
                given = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
                flat = torch.cat([gradient.flatten() for gradient in given])
                if self.sharded:
                    dist.reduce(flat, group=group, group_dst=owner)
                else:
                    dist.all_reduce(flat, group=group)
                mine = not self.sharded or owner == dist.get_rank(group)
                _put(flat, held, _set_gradient if mine else _drop_gradient)

    def _buckets(self, parameters: Mapping[str, nn.Parameter], names: Iterable[str]) -> list[tuple[int, list[str]]]:
        """Owner and names of what travels together."""
        buckets: list[tuple[int, list[str]]] = []
        sizes: list[int] = []
        ordered = sorted(names, key=lambda name: self._owner[name]) if self.sharded else list(names)
        for name in ordered:
            owner, size = self._owner[name], parameters[name].numel()
            same = buckets and (buckets[-1][0] == owner or not self.sharded) and sizes[-1] + size <= BUCKET
            if same and parameters[buckets[-1][1][0]].dtype == parameters[name].dtype:
                buckets[-1][1].append(name)
                sizes[-1] += size
            else:
                buckets.append((owner, [name]))
                sizes.append(size)
        return buckets

    def _nothing(self) -> Sums:
        config, device = self.model.config, self.model.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        loads = torch.zeros(config.moe_layers, config.n_routed_experts, device=device)
        return Sums(dict.fromkeys(self.names, zero), loads)


def _owners(parameters: Mapping[str, nn.Parameter], ranks: int, sharded: bool) -> dict[str, int]:
    """Of each parameter: the largest first, each to whom has least; always the first rank without sharding."""
    held = [0] * ranks
    owners = {}
    for name, parameter in sorted(parameters.items(), key=lambda item: (-item[1].numel(), item[0])):
        owner = min(range(ranks), key=lambda rank: (held[rank], rank)) if sharded else 0
        held[owner] += parameter.numel()
        owners[name] = owner
    return owners


def _put(flat: Tensor, held: Sequence[nn.Parameter], give: Callable[[nn.Parameter, Tensor], None]) -> None:
    for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True):
        give(parameter, part.view_as(parameter))


def _set_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient


def _drop_gradient(parameter: nn.Parameter, _: Tensor) -> None:
    parameter.grad = None


@torch.no_grad()
def _overwrite(parameter: nn.Parameter, weight: Tensor) -> None:
    parameter.copy_(weight)
