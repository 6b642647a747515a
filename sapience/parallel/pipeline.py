"""The pipeline's runtime: executes a schedule on torch.distributed, behind the step executor.

Every rank draws the same rows and has some stages of the model. A step's messages follow from the schedule: receivers ask for
them in the order in which they are sent, ahead of time, and nobody waits for what he has sent, so that no order of actions can
lock up. After the last action the gradients of parts that several ranks hold are added up (both copies of DualPipe's, and the
embedding at both ends), and so are the sums.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sapience.model.batch import Microbatch
from sapience.model.block import Router
from sapience.model.transformer import Transformer
from sapience.ops.put_off import Later, expected
from sapience.parallel.executor import Sums
from sapience.parallel.groups import make_groups
from sapience.parallel.messages import Message, received, sent
from sapience.parallel.pieces import Pieces, Steps, in_turns
from sapience.parallel.schedule import Chunk, Schedule, check


class StageObjective(Protocol):
    """An objective that can be computed where its parts are."""

    names: tuple[str, ...]
    """Of the sums that are reported."""

    def of_tokens(
        self, model: Transformer, hidden_BTD: Tensor, predictions: Sequence[Tensor], batch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """From the last hidden states: the loss sum to differentiate, and sums to report."""

    def of_routers(self, routers: Sequence[Router], batch: Microbatch) -> tuple[Tensor, dict[str, Tensor]]:
        """From the gates of some layers: the same."""


class Pipeline:
    """A step executor of one rank. The model has been cut down to the rank's stages (`stages.keep`)."""

    def __init__(
        self,
        model: Transformer,
        objective: StageObjective,
        schedule: Callable[[int], Schedule],
        division: Sequence[range],
        places: Sequence[Sequence[int]],
        pipelines: Sequence[Sequence[int]],
        pair: Callable[[Steps, Steps], None] = in_turns,
        cuts: bool = False,
    ) -> None:
        """`schedule`: that of so many micro-batches; `places`: its `copies`, whatever their number. `pipelines`: the ranks of
        each. `pair` runs an overlapped pair, a forward chunk and a backward chunk, to their ends. `cuts`: chunks are cut where
        tokens travel to experts, so that others can work meanwhile. All ranks of the world make theirs together."""
        self.model, self.objective, self.division = model, objective, division
        self.pair, self.cuts = pair, cuts
        self.places = tuple(map(tuple, places))
        self._schedule_of, self._schedules = schedule, dict[int, Schedule]()
        here = dist.get_rank()
        for ranks in pipelines:
            (group,) = make_groups([ranks])
            shared = sorted({holders for part in self._parts() if len(holders := self._held_by(part)) > 1})
            groups = make_groups([[ranks[place] for place in holders] for holders in shared])
            # A line of its own for each direction: NCCL sends nothing before what stands in front of it has been received.
            pairs = {pair for copy in self.places for pair in pairwise(copy) if pair[0] != pair[1]}
            ways = sorted(pairs | {(to, sender) for sender, to in pairs})
            lines = make_groups([[ranks[sender], ranks[to]] for sender, to in ways], "line")
            if here in ranks:
                self.ranks, self.rank, self.group = list(ranks), list(ranks).index(here), group
                self._groups = dict(zip(shared, groups, strict=True))
                self.lines = dict(zip(ways, lines, strict=True))
        names: dict[tuple[int, ...], list[str]] = {}
        self._holders = {name: self._held_by(_part_of(name)) for name, _ in model.named_parameters()}
        for name, holders in self._holders.items():
            if len(holders) > 1:
                names.setdefault(holders, []).append(name)
        self._shared = [(self._groups[holders], names[holders]) for holders in sorted(names)]

    def _parts(self) -> list[str]:
        return ["embedding", "head", *(f"layers.{layer}" for layer in range(self.model.config.num_hidden_layers))]

    def _held_by(self, part: str) -> tuple[int, ...]:
        """The pipeline's ranks that have a part of the model; "head" is everything behind the last layer."""
        last, config = len(self.division) - 1, self.model.config
        if part == "embedding":
            again = config.num_nextn_predict_layers or config.tie_word_embeddings
            stages = {0, last} if again else {0}
        elif part == "head":
            stages = {last}
        else:
            layer = int(part.partition(".")[2])
            stages = {next(stage for stage, layers in enumerate(self.division) if layer in layers)}
        return tuple(sorted({copy[stage] for copy in self.places for stage in stages}))

    def schedule(self, microbatches: int) -> Schedule:
        """The checked schedule of so many micro-batches. Raises Impossible where there is none."""
        if microbatches not in self._schedules:
            made = self._schedule_of(microbatches)
            check(made)
            assert made.copies == self.places
            self._schedules[microbatches] = made
        return self._schedules[microbatches]

    def forward_backward(self, microbatches: Sequence[Microbatch], denominator: float) -> Sums:
        """See StepExecutor. Raises ValueError for an empty step or a denominator that is not positive, and Impossible where
        the schedule cannot have so many micro-batches."""
        if not microbatches or not denominator > 0:
            raise ValueError(f"a step needs micro-batches and a positive denominator, got {denominator}")
        schedule = self.schedule(len(microbatches))
        self.model.refresh()
        step = _Step(self, schedule, [batch.to(self.model.device) for batch in microbatches], denominator)
        step.run()
        self._add_up_gradients()
        return self._add_up(step)

    def counts(self, name: str) -> bool:
        """Whether this rank is the one that counts a parameter in what is summed over parameters."""
        return self._holders[name][0] == self.rank

    def total(self, square: Tensor) -> Tensor:
        """The sum of every rank's."""
        square = square.clone()
        dist.all_reduce(square, group=self.group)
        return square

    def moved(self) -> None:
        """The optimizer has moved the weights: every rank that holds one has moved it alike."""

    def _add_up_gradients(self) -> None:
        parameters = dict(self.model.named_parameters())
        for group, names in self._shared:
            held = [parameters[name] for name in names]
            given = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
            flat = torch.cat([gradient.flatten() for gradient in given])
            dist.all_reduce(flat, group=group)
            for parameter, part in zip(held, flat.split([p.numel() for p in held]), strict=True):
                parameter.grad = part.view_as(parameter)

    def _add_up(self, step: "_Step") -> Sums:
        names, loads = self.objective.names, step.loads_LE
        values = [step.values.get(name, torch.zeros((), device=loads.device)).double() for name in names]
        flat = torch.cat((torch.stack(values), loads.double().flatten()))
        dist.all_reduce(flat, group=self.group)
        sums = dict(zip(names, flat[: len(names)].unbind(), strict=True))
        return Sums(sums, flat[len(names) :].view_as(loads).to(loads.dtype))


def _finish(steps: Steps) -> None:
    for _ in steps:
        pass


def _part_of(name: str) -> str:
    """The part that a parameter belongs to."""
    part, *rest = name.split(".")
    return f"layers.{rest[0]}" if part == "layers" else "embedding" if part == "embedding" else "head"


@dataclass
class _Post:
    """This rank's messages within a step."""

    pipeline: Pipeline
    schedule: Schedule
    _asked: dict[Message, tuple[Tensor, dist.Work]] = field(default_factory=dict)
    _own: dict[Message, Tensor] = field(default_factory=dict)
    _leaving: deque[tuple[Tensor, dist.Work]] = field(default_factory=deque)
    _numbers: Counter[int] = field(default_factory=Counter)
    _held: dict[Message, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rank = self.pipeline.rank
        self._incoming = {
            sender: deque(enumerate(messages)) for sender, messages in received(self.schedule, rank).items()
        }
        self._from = {message: sender for sender, queue in self._incoming.items() for _, message in queue}
        self._to: Mapping[Message, int] = {message: to for to, message in sent(self.schedule, rank)}
        self._outgoing: dict[int, deque[Message]] = {to: deque() for to in self._to.values()}
        for message, to in self._to.items():
            self._outgoing[to].append(message)

    def send(self, message: Message, tensor: Tensor) -> None:
        """When its turn has come: of a pair, either chunk may be the first to end."""
        to = self._to[message]
        if to == self.pipeline.rank:
            self._own[message] = tensor
            return
        self._held[message] = tensor.contiguous()
        queue = self._outgoing[to]
        while queue and queue[0] in self._held:
            self._leave(to, self._held.pop(queue.popleft()))

    def _leave(self, to: int, tensor: Tensor) -> None:
        number = self._numbers[to]
        self._numbers[to] += 1
        line = self.pipeline.lines[self.pipeline.rank, to]
        work = dist.isend(tensor, self.pipeline.ranks[to], group=line, tag=number)
        self._leaving.append((tensor, _there(work)))
        while self._leaving and self._leaving[0][1].is_completed():
            self._leaving.popleft()

    def take(self, message: Message, shape: Callable[[int], tuple[int, ...]]) -> Tensor:
        """The message's tensor; what its sender sends before is asked for before."""
        if message in self._own:
            return self._own.pop(message)
        sender = self._from[message]
        while message not in self._asked:
            number, next_ = self._incoming[sender].popleft()
            model = self.pipeline.model
            tensor = torch.empty(shape(next_.microbatch), dtype=model.number, device=model.device)
            line = self.pipeline.lines[sender, self.pipeline.rank]
            work = dist.irecv(tensor, self.pipeline.ranks[sender], group=line, tag=number)
            self._asked[next_] = tensor, _there(work)
        tensor, work = self._asked.pop(message)
        work.wait()
        return tensor

    def close(self) -> None:
        """Until everything has left."""
        for _, work in self._leaving:
            work.wait()


def _there(work: dist.Work | None) -> dist.Work:
    assert work is not None  # None is for ranks outside of the group
    return work


class _Step:
    """A rank's work on a step's micro-batches."""

    def __init__(
        self, pipeline: Pipeline, schedule: Schedule, microbatches: Sequence[Microbatch], denominator: float
    ) -> None:
        self.pipeline, self.schedule, self.microbatches = pipeline, schedule, microbatches
        self.denominator = denominator
        self.post = _Post(pipeline, schedule)
        self.later = Later()
        self.values: dict[str, Tensor] = {}
        config = pipeline.model.config
        self.loads_LE = torch.zeros(config.moe_layers, config.n_routed_experts, device=pipeline.model.device)
        self._inputs: dict[tuple[int, int], Tensor] = {}
        self._ends: dict[tuple[int, int], tuple[Tensor | None, Tensor | None, Pieces | None]] = {}
        """Of every chunk whose backward pass is to come: what left the stage, what it adds to the loss, and its pieces."""

    def run(self) -> None:
        with expected():
            for action in self.schedule.actions[self.pipeline.rank]:
                if len(action) == 2:
                    forward, backward = action
                    self.pipeline.pair(self._forward(forward), self._backward(backward))
                else:
                    self._do(action[0])
        self.post.close()

    def _do(self, chunk: Chunk) -> None:
        if chunk.kind == "F":
            _finish(self._forward(chunk))
        elif chunk.kind == "I":
            with self.later.chunk():
                _finish(self._backward(chunk))
        elif chunk.kind == "B":
            _finish(self._backward(chunk))
        else:
            self.later.make()

    def _forward(self, chunk: Chunk) -> Steps:
        stage, microbatch = chunk.stage, chunk.microbatch
        model, batch, objective = self.pipeline.model, self.microbatches[microbatch], self.pipeline.objective
        context = model.context(batch)
        if stage == 0:
            hidden = model.embedded(batch.tokens_BT)
        else:
            hidden = self.post.take(Message("hidden", stage, microbatch), self._shape).requires_grad_()
            self._inputs[stage, microbatch] = hidden
        layers = self.pipeline.division[stage]
        pieces: Pieces | None = None
        if self.pipeline.cuts and not model.compiled:
            pieces = Pieces(model, layers, context)
            yield from pieces.forward(hidden)
            hidden, routers = pieces.end
        else:
            hidden, routers = model.stretch(hidden, layers, context)
        numbers = [layer - model.config.first_k_dense_replace for layer in layers]
        self._count(routers, [number for number in numbers if number >= 0])
        loss: Tensor | None = None
        if stage == self.schedule.stages - 1:
            normed = model.normed(hidden)
            predictions, more = model.chain(normed, batch.tokens_BT, context)
            self._count(more, range(len(self.loads_LE) - len(more), len(self.loads_LE)))
            routers = routers + more
            loss, values = objective.of_tokens(model, normed, predictions, batch)
            self._report(values)
        else:
            self.post.send(Message("hidden", stage + 1, microbatch), hidden.detach())
        if routers:
            added, values = objective.of_routers(routers, batch)
            self._report(values)
            loss = added if loss is None else loss + added
        leaving = None if stage == self.schedule.stages - 1 else hidden
        self._ends[stage, microbatch] = leaving, loss, pieces

    def _backward(self, chunk: Chunk) -> Steps:
        stage, microbatch = chunk.stage, chunk.microbatch
        leaving, loss, pieces = self._ends.pop((stage, microbatch))
        ends: list[Tensor] = []
        slopes: list[Tensor | None] = []
        if leaving is not None:
            ends.append(leaving)
            slopes.append(self.post.take(Message("gradient", stage, microbatch), self._shape))
        if loss is not None and loss.requires_grad:
            ends.append(loss / self.denominator)
            slopes.append(None)
        if pieces is None:
            torch.autograd.backward(ends, slopes)
        else:
            yield from pieces.backward(ends, slopes)
        entered = self._inputs.pop((stage, microbatch), None)
        if entered is not None:
            assert entered.grad is not None
            self.post.send(Message("gradient", stage - 1, microbatch), entered.grad)

    def _shape(self, microbatch: int) -> tuple[int, ...]:
        return *self.microbatches[microbatch].tokens_BT.shape, self.pipeline.model.config.hidden_size

    def _count(self, routers: Sequence[Router], numbers: Sequence[int]) -> None:
        for number, router in zip(numbers, routers, strict=True):
            self.loads_LE[number] += router.loads_E

    def _report(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.values[name] = self.values[name] + value if name in self.values else value
