"""The step loop: rows in, steps executed, weights moved, experts balanced, everything counted and resumable.

The loop knows the step executor and nothing of devices' number or pipelines. Its state is a few counters: after a kill
it goes on from the last whole checkpoint and ends with the same bits, since rows, schedule and arithmetic are functions
of the step alone.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sapience.model.batch import Microbatch
from sapience.model.gate import max_violation, updated_bias
from sapience.model.transformer import Transformer
from sapience.parallel.executor import StepExecutor, Sums
from sapience.parallel.spread import Spread
from sapience.recipe.errors import UserError
from sapience.training.checkpoint import latest_checkpoint, save_checkpoint
from sapience.training.device import Readout
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import StepPlan
from sapience.training.skipped import UpdateCounters

if TYPE_CHECKING:
    from sapience.training.sharded_checkpoint import ShardedCheckpoints

SPIKE_DEVIATIONS = 6.0
"""A loss so many standard deviations above its running mean is named a spike."""


class RowSource(Protocol):
    """Where rows come from: a pure function of their index."""

    def microbatches(self, first_row: int, rows: int) -> list[Microbatch]:
        """The step's rows, cut into micro-batches."""

    def chain(self, previous: str) -> str:
        """Hash of the stream so far: the rows drawn last, chained to the hash before them."""


@dataclass
class Counters(UpdateCounters):
    """What a checkpoint keeps beside tensors."""

    step: int = 0
    tokens: int = 0
    spikes: int = 0
    loss_mean: float = 0.0
    loss_square: float = 0.0
    seconds: float = 0.0
    stream: str = ""
    """Hash of all rows drawn so far."""
    stream_before: str = ""
    """The same before the last step, so that a resumed run can draw that step's rows again and compare."""
    tail_loads: list[list[float]] = field(default_factory=list)
    """Loads summed over the last tenth of the steps, per layer with experts."""


@dataclass(frozen=True)
class Saving:
    """Where and how often checkpoints are written."""

    folder: Path
    every: int
    keep: int


@dataclass(frozen=True)
class Launched:
    """A step on its way."""

    plan: StepPlan
    names: tuple[str, ...]
    """Of the sums that the readout holds, between the gradient's norm and the loads."""
    readout: Readout
    denominator: int
    tokens: int
    places: int
    """Positions, padding included."""
    stream: str
    began: float


@dataclass
class Training:
    """A stage's training, ready to run or to go on."""

    model: Transformer
    executor: StepExecutor
    objective: NextTokens
    optimizer: OptimizerSet
    source: RowSource
    plan: Sequence[StepPlan]
    saving: Saving
    log: MetricsLog
    log_every: int
    note: dict[str, Any] = field(default_factory=dict)
    """Written into every line of metrics, such as the phase."""
    step_offset: int = 0
    """Added to the step in the logs, where several trainings follow one another in a stage."""
    on_step: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    """Called after every step with the number of finished steps and the figures for the progress bar."""
    pauses: frozenset[int] = frozenset()
    """Steps after which `on_step` looks at the model: it must not have gone further."""
    lag: int | None = None
    """Steps whose figures may be read later, so that a device need not wait for its host; None for one on a GPU, else none."""
    spread: Spread | None = None
    """Where the model is spread over several processes: one of them writes."""
    counters: Counters = field(default_factory=Counters)
    stream: str = ""
    """Hash of the rows drawn so far, those of launched steps included."""
    _launched: "deque[Launched]" = field(default_factory=deque)
    _settled: float = 0.0
    """When the last step was."""
    _paces: "deque[tuple[int, float]]" = field(default_factory=lambda: deque(maxlen=10))
    """Positions and seconds of the last steps. One alone says little on a GPU: which step waits for which is chance."""

    def __post_init__(self) -> None:
        self._parts = None if self.spread is None else _checkpoints_of(self.spread, self.saving)

    def resume(self) -> int:
        """Take up the newest whole checkpoint, if there is one; returns the finished steps."""
        checkpoint = latest_checkpoint(self.saving.folder) if self._parts is None else self._parts.latest()
        if checkpoint is None:
            # What was noted before the first step (as step 0) will be noted again.
            self._rewind(self.step_offset or -1)
            return 0
        self.model.load_state_dict(checkpoint.weights)
        self.optimizer.load(checkpoint.optimizer)
        self.counters = Counters(**checkpoint.state)
        if self.counters.step:
            self._check_stream()
        self._rewind(self.step_offset + self.counters.step)
        return self.counters.step

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.spread is None or self.spread.writes

    def _rewind(self, step: int) -> None:
        if self.writes:
            self.log.rewind(step)

    def _check_stream(self) -> None:
        """Draw the last step's rows again. Raises UserError where they are not those that were trained on."""
        last = self.plan[self.counters.step - 1]
        self.source.microbatches(last.first_row, last.rows)
        if self.source.chain(self.counters.stream_before) != self.counters.stream:
            raise UserError(
                f"the token stream is not the one that {self.saving.folder} was trained on (its hash differs at step "
                f"{self.counters.step}): restore the token shards, or delete that folder to start the stage again"
            )

    def run(self) -> Counters:
        """Train to the end of the plan. Raises UserError where the loss is lost for good."""
        launched = self.counters.step
        lag = int(self.model.device.type == "cuda") if self.lag is None else self.lag
        while launched < len(self.plan):
            self._launched.append(self._launch(self.plan[launched]))
            launched += 1
            saving = launched % self.saving.every == 0 or launched == len(self.plan)
            while self._launched and (saving or launched in self.pauses or len(self._launched) > lag):
                self._settle(self._launched.popleft())
            if saving:
                self.save()
        if self._parts is not None:
            self._parts.wait()
        return self.counters

    def save(self) -> None:
        """Write a checkpoint of this moment; where processes share the model it is written beside the steps that follow."""
        step, state = self.counters.step, asdict(self.counters)
        weights, moments = self.model.state_dict(), self.optimizer.tensors()
        if self._parts is not None:
            self._parts.save(step, weights, moments, state)
        else:
            save_checkpoint(self.saving.folder, step, weights, moments, state, self.saving.keep)

    def _launch(self, plan: StepPlan) -> "Launched":
        """Everything that the device has to do for a step; nothing is read back."""
        began = time.perf_counter()
        batches = self.source.microbatches(plan.first_row, plan.rows)
        self.stream = self.source.chain(self.stream or self.counters.stream)
        denominator = labelled_tokens(batches)
        self.objective.prediction_weight = plan.prediction_weight
        sums = self.executor.forward_backward(batches, denominator)
        norm = self.optimizer.step(plan.learning_rate)
        update_biases(self.model, sums, plan.gamma * norm.isfinite())
        tokens = sum(int(batch.valid_BT.sum()) for batch in batches)
        places = sum(batch.tokens_BT.numel() for batch in batches)
        readout = Readout(norm, *sums.values.values(), sums.loads_LE)
        return Launched(plan, tuple(sums.values), readout, denominator, tokens, places, self.stream, began)

    def _settle(self, launched: "Launched") -> None:
        """Read a step's figures, count and log it."""
        counters, plan = self.counters, launched.plan
        read, *sums, loads_LE = launched.readout.wait()
        norm = float(read)
        losses = {name: float(value) / launched.denominator for name, value in zip(launched.names, sums, strict=True)}
        counters.step += 1
        counters.tokens += launched.tokens
        counters.stream_before, counters.stream = counters.stream, launched.stream
        skipped = counters.count_update(
            norm,
            "steps",
            f"step {counters.step}, learning rate {plan.learning_rate:.2g}",
            "lower the learning rate's peak or the optimizer's clip",
        )
        spike = self._spike(losses["loss"])
        if counters.step > 0.9 * len(self.plan):
            self._add_tail(loads_LE)
        now = time.perf_counter()
        elapsed = now - max(launched.began, self._settled)
        self._settled = now
        counters.seconds += elapsed
        self._paces.append((launched.places, elapsed))
        rate = sum(places for places, _ in self._paces) / sum(seconds for _, seconds in self._paces)
        done = counters.step
        if self.writes and (done % self.log_every == 0 or done in (1, len(self.plan)) or skipped or spike):
            self._write(plan, losses, norm, skipped, spike, rate, loads_LE)
        self.on_step(done, {"loss": losses["loss"], "tok/s": rate})

    def _spike(self, loss: float) -> bool:
        counters = self.counters
        if not math.isfinite(loss):
            return False
        deviation = math.sqrt(max(counters.loss_square - counters.loss_mean**2, 1e-12))
        spike = counters.step > 50 and loss > counters.loss_mean + max(SPIKE_DEVIATIONS * deviation, 0.5)
        counters.spikes += spike
        keep = 0.0 if counters.step == 1 else 0.95
        counters.loss_mean = keep * counters.loss_mean + (1 - keep) * loss
        counters.loss_square = keep * counters.loss_square + (1 - keep) * loss * loss
        return spike

    def _add_tail(self, loads_LE: torch.Tensor) -> None:
        loads = loads_LE.double()
        if self.counters.tail_loads:
            loads = loads + torch.tensor(self.counters.tail_loads, dtype=torch.float64)
        self.counters.tail_loads = loads.tolist()

    def _write(
        self,
        plan: StepPlan,
        losses: dict[str, float],
        norm: float,
        skipped: bool,
        spike: bool,
        rate: float,
        loads_LE: torch.Tensor,
    ) -> None:
        step = self.step_offset + self.counters.step
        finite = {
            name: value if math.isfinite(value) else None for name, value in (*losses.items(), ("gradient_norm", norm))
        }
        self.log.write(
            "metrics",
            {
                "step": step,
                "tokens": self.counters.tokens,
                "rows": plan.rows,
                "seconds": round(self.counters.seconds, 3),
                "learning_rate": plan.learning_rate,
                **finite,
                "skipped": self.counters.skipped,
                "skipped_now": skipped,
                "spike": spike,
                "tokens_per_second": round(rate, 1),
                "max_violation": max((max_violation(loads) for loads in loads_LE), default=0.0),
                **self.note,
            },
        )
        self.log.write("loads", {"step": step, "loads": loads_LE.tolist()})


def _checkpoints_of(spread: Spread, saving: Saving) -> "ShardedCheckpoints":
    from sapience.training.sharded_checkpoint import ShardedCheckpoints  # takes most of a second to import

    return ShardedCheckpoints(saving.folder, saving.keep, spread)


@torch.no_grad()
def update_biases(model: Transformer, sums: Sums, gamma: float | torch.Tensor) -> None:
    """Nudge every gate's bias once, by the loads of the whole step; a softmax gate has none."""
    if model.config.balanced_by_bias:
        for number, block in model.numbered_gates():
            loads_E = sums.loads_LE[number]
            block.gate.bias_E.copy_(updated_bias(block.gate.bias_E, loads_E.to(block.gate.bias_E.device), gamma))


def tail_violations(counters: Counters) -> list[float]:
    """MaxVio of every layer on the loads of the last tenth of the steps."""
    return [max_violation(torch.tensor(loads)) for loads in counters.tail_loads]
