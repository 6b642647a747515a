"""A model spread over a mesh: the executor of a rank's share, and the whole put together again for a checkpoint.

A checkpoint is the one that a single process would write, so that any other layout goes on from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sapience.model.transformer import Transformer
from sapience.parallel.context import ContextGroup
from sapience.parallel.data import DataParallel
from sapience.parallel.division import divide, stages_of
from sapience.parallel.executor import PlainLoop, StepExecutor
from sapience.parallel.experts import part_of, spread_experts
from sapience.parallel.groups import make_groups
from sapience.parallel.mesh import Mesh
from sapience.parallel.pipeline import Pipeline
from sapience.parallel.schedules import SCHEDULES
from sapience.parallel.sharded_weights import shard_weights
from sapience.parallel.stages import keep
from sapience.recipe.errors import UserError
from sapience.recipe.parallel import LayoutSection


@dataclass(frozen=True)
class Rows:
    """Some neighbours of a tensor's first axis."""

    first: int
    end: int
    """Behind the last."""
    whole: int
    """Of the tensor."""


@dataclass
class Spread:
    """A rank's part of a model, and how it works with the others."""

    model: Transformer
    mesh: Mesh
    executor: DataParallel
    experts: frozenset[str] = field(default_factory=frozenset)
    """Parameters of which the rank has a part: that of its place among those that share the experts."""

    def __post_init__(self) -> None:
        self._held = frozenset(self.model.state_dict())
        self._rows = {
            name: self._rows_of(name, len(parameter))
            for name, parameter in self.model.named_parameters()
            if name in self.experts or self._is_cut(name)
        }

    @property
    def writes(self) -> bool:
        """Whether this is the rank that writes files."""
        return dist.get_rank() == 0

    def wait(self) -> None:
        """Until every rank is here."""
        dist.barrier()

    def agree_on(self, what: str, mine: Any) -> None:
        """Raises UserError where ranks see different things."""
        everyones: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
        if any(each != everyones[0] for each in everyones):
            raise UserError(
                f"the processes see different files ({what}: {everyones}): runs must be on a disk they share"
            )

    def whole_model(self) -> Transformer | None:
        """A complete model with today's weights, where the model's are; on other ranks than the one that writes None."""
        weights = self.weights()
        if weights is None:
            return None
        whole = Transformer(self.model.config).to(self.model.device)
        whole.load_state_dict(weights)
        return whole

    def weights(self) -> dict[str, Tensor] | None:
        """The whole model's parameters and buffers; on other ranks than the one that writes None."""
        replica = self.mesh.replica(dist.get_rank())

        def gives(name: str) -> bool:
            return self._is_cut(name) or replica < (self.mesh.expert if name in self.experts else 1)

        return self._gathered({key: value for key, value in self.model.state_dict().items() if gives(key)})

    def rows(self, key: str) -> Rows | None:
        """What the rank has of a parameter or of its moment (`moment/parameter`); None where that is all of it."""
        return self._rows.get(_name(key))

    def owns(self, key: str) -> bool:
        """Whether the rank is to keep a parameter's moment: with ZeRO-1 one of all that hold the parameter, else the first; of
        rows who has them."""
        return self.executor.owns(_name(key))

    def needs(self, key: str) -> bool:
        """Whether the rank works with a parameter or buffer, or with a parameter's moment."""
        name, rows = _name(key), self.rows(key)
        if key == name or name not in self._held:
            return name in self._held
        if rows is not None and rows.first == rows.end:
            return False
        return not self.executor.sharded or self.executor.owns(name)

    def own_weights(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of a whole model's parameters and buffers."""
        return {key: self._own(key, whole[key]) for key in self.model.state_dict()}

    def own_optimizer(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of a whole optimizer's state."""
        return {key: self._own(_name(key), value) for key, value in whole.items() if self.needs(key)}

    def _own(self, name: str, value: Tensor) -> Tensor:
        rows = self.rows(name)
        return value if rows is None or not value.ndim else value[rows.first : rows.end]

    def _is_cut(self, name: str) -> bool:
        return self.executor.cut is not None and name in self.executor.cut.groups

    def _rows_of(self, name: str, held: int) -> Rows:
        """`held`: the rows of a parameter that the rank has together with those among whom they are cut."""
        first, end = (0, held) if self.executor.cut is None or not self._is_cut(name) else self.executor.cut.rows(name)
        if name not in self.experts:
            return Rows(first, end, held)
        place = self.mesh.replica(dist.get_rank()) % self.mesh.expert
        before = part_of(held * self.mesh.expert, place, self.mesh.expert).start
        return Rows(before + first, before + end, held * self.mesh.expert)

    def _gathered(self, given: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """What all ranks give, the first who gives a name counting; rows joined."""
        given = {key: value for key, value in given.items() if value.numel()}
        starts = {key: rows.first for key in given if (rows := self.rows(key)) is not None}
        told = [(key, tuple(v.shape), v.dtype, starts.get(key, 0)) for key, v in given.items()]
        lists: list[Any] | None = [None] * dist.get_world_size() if self.writes else None
        dist.gather_object(told, lists, dst=0)
        if lists is None:
            for value in given.values():
                dist.send(value.detach().contiguous(), dst=0)
            return None
        found: dict[str, dict[int, Tensor]] = {}
        for rank, told in enumerate(lists):
            for key, shape, dtype, start in told:
                value = given[key].detach() if rank == 0 else torch.empty(shape, dtype=dtype, device=self.model.device)
                if rank:
                    dist.recv(value, src=rank)
                found.setdefault(key, {}).setdefault(start, value)
        return {key: _joined(parts) for key, parts in found.items()}


def spread(
    model: Transformer,
    objective: Any,
    mesh: Mesh,
    section: LayoutSection,
    microbatches: int,
    device: torch.device | None = None,
    narrow: bool = False,
) -> Spread:
    """Cut the whole model down, in place, to this rank's part. All ranks of the world take part, each with the same model.

    `microbatches`: of a step, all ranks' together. `objective`: as `pipeline.StageObjective`, and an `executor.Objective`.
    `device`: where the model will be, if not where it is; `narrow`: whether it will compute in bfloat16.
    """
    rank = dist.get_rank()
    inner: StepExecutor = PlainLoop(model, objective)
    part: Pipeline | None = None
    if mesh.pipeline > 1:
        build = partial(SCHEDULES[section.schedule], mesh.pipeline)
        schedule = build(microbatches // mesh.readers)
        division = divide(model.config, schedule.stages, section.stage_layers)
        keep(model, stages_of(schedule, mesh.place(rank)), division)
        pipelines = mesh.pipelines()
        cuts = mesh.expert > 1
        inner = part = Pipeline(model, objective, build, division, schedule.copies, pipelines, cuts=cuts)
    apart: dict[str, dist.ProcessGroup] = {}
    same: dist.ProcessGroup | None = None
    if mesh.expert > 1:
        own, same = _mine(mesh.expert_groups(), rank), _mine(mesh.same_experts(), rank)
        apart = dict.fromkeys(spread_experts(model, own, section.dispatch == "fp8"), same)
    group = _mine(mesh.data_groups(), rank)
    context = ContextGroup(_mine(mesh.context_groups(), rank)) if mesh.context > 1 else None
    cut = shard_weights(model, group, same, device or model.device, narrow) if section.shard_weights else None
    executor = DataParallel(model, inner, objective.names, group, part, section.shard_optimizer, apart, context, cut)
    return Spread(model, mesh, executor, frozenset(apart))


def _mine(groups: list[list[int]], rank: int) -> dist.ProcessGroup:
    made = make_groups(groups)
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)


def _name(key: str) -> str:
    """The parameter's, of a moment's key (`moment/parameter`) or of its own."""
    return key.rpartition("/")[2]


def _joined(parts: Mapping[int, Tensor]) -> Tensor:
    """`parts` by their first rows."""
    ordered = [parts[start] for start in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)
