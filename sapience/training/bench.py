"""How fast a model trains here: a whole step, timed in rounds, beside what the machine's matrix product reaches.

A step is forward, loss (with prediction modules where the model has them), backward, clip and AdamW, on tokens of a chain in
which most follow from the one before, so that a falling loss shows that it learns. No token is dropped and routing is the
model's own. `bf16` computes in bfloat16 with V3's state: weights and gradients in float32, moments in bfloat16, and the
matrices' copies in bfloat16, 14 bytes a parameter. `narrow` keeps weights, gradients and moments in bfloat16, eight bytes, as
some other systems are measured. `fp8` computes linear layers and experts by V3's scheme; its copies are in FP8, in two layouts
each. The gate computes in float32 all the same.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sapience.model.batch import Microbatch
from sapience.model.gate import Gate, Routing, expert_weights
from sapience.model.linear import Precision
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop
from sapience.recipe.compute import RecomputedPart
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.training.device import choose_device
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""What the ceiling is measured in."""
_FOLLOWS = 0.8
"""Share of the tokens that follow from the one before."""
_POOL = 16
"""Steps' worth of tokens; then they come again."""


@dataclass(frozen=True)
class Asked:
    """What is to be timed; the command's options."""

    name: str
    model: ModelSection
    operations: float
    """Of a token's forward and backward pass."""
    number: Precision
    device: str
    rows: int
    length: int
    micro_rows: int
    """Rows that go through the model at once; gradients add up to the step's."""
    steps: int
    """Steps of a round."""
    narrow: bool
    """Weights, gradients and moments in bfloat16 too."""
    compiled: bool
    balanced: bool
    """Send every expert the same number of tokens, whatever the gate says."""
    recompute: tuple[RecomputedPart, ...] = ()
    """What the backward pass computes again instead of keeping it."""


class TrainingBench:
    """A model being trained, warmed up and ready to be timed."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.device = choose_device(asked.device)
        torch.manual_seed(0)
        with torch.device(self.device):
            self.model = Transformer(asked.model)
            if asked.narrow:
                self.model.to(torch.bfloat16)
            for parameter in self.model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=asked.model.initializer_range)
        if asked.number != "fp32" and not asked.narrow:
            self.model.compute_in(asked.number)
        if asked.balanced:
            for block in self.model.gates():
                block.gate.__class__ = _EvenGate
        self.model.recompute(asked.recompute)
        if asked.compiled:
            self.model.compile_layers()
        self.executor = PlainLoop(self.model, NextTokens(prediction_weight=0.3, alpha=1e-4))
        self.optimizer = OptimizerSet(
            self.model, OptimizerSection(moments="fp32" if asked.number == "fp32" else "bf16")
        )
        self.tokens = _chain(asked, self.device)
        self.losses: list[Tensor] = []
        """Of every step so far, left where they were computed: reading one waits for the device."""
        began = time.perf_counter()
        for _ in range(3):
            self._step()
        self._wait()
        self.warm_up_seconds = time.perf_counter() - began
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def round_ms(self) -> float:
        """Milliseconds of a step, over a round of them."""
        self._wait()
        began = time.perf_counter()
        for _ in range(self.asked.steps):
            self._step()
        self._wait()
        return 1e3 * (time.perf_counter() - began) / self.asked.steps

    def record(self, rounds_ms: list[float]) -> dict[str, Any]:
        """All figures, of the rounds' median."""
        asked, ms = self.asked, statistics.median(rounds_ms)
        rate = asked.rows * asked.length / ms * 1e3
        gflops = rate * asked.operations / 1e9
        ceiling = ceiling_gflops(_TYPES[asked.number], self.device)
        cuda = self.device.type == "cuda"
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        state = sum(tensor.nbytes for tensor in self.optimizer.tensors().values())
        held = sum(2 * parameter.nbytes for parameter in self.model.parameters())
        held += sum(buffer.nbytes for buffer in self.model.buffers())
        return {
            "what": "train", "system": "sapience", "config": self.described, "tokens_per_s": round(rate, 1),
            "ms_per_step": round(ms, 2), "rounds_ms": [round(one, 2) for one in rounds_ms],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None,
            "model_gflops": round(gflops, 2), "ceiling_gflops": round(ceiling, 1), "mfu": round(gflops / ceiling, 4),
            "params": parameters, "gflops_per_token": round(asked.operations / 1e9, 4),
            "state_bytes_per_parameter": round((state + held) / parameters, 2),
            "loss_first": round(float(self.losses[0]), 4), "loss_last": round(float(self.losses[-1]), 4),
            "warm_up_s": round(self.warm_up_seconds, 2), "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if cuda else "cpu", "threads": torch.get_num_threads(),
        }  # fmt: skip

    @property
    def described(self) -> str:
        """In a few words."""
        asked = self.asked
        marks = [
            word
            for word, on in (("8 bytes", asked.narrow), ("compiled", asked.compiled), ("balanced", asked.balanced))
            if on
        ]
        marks += [f"{part} recomputed" for part in asked.recompute]
        micro = [f"micro {asked.micro_rows}"] if asked.micro_rows != asked.rows else []
        size = f"{asked.name} {asked.rows} x {asked.length}"
        return " ".join([size, *micro, asked.number, self.device.type, *marks])

    def _step(self) -> None:
        place = len(self.losses) % _POOL
        rows = self.tokens[place]
        batches = [_batch(rows[at : at + self.asked.micro_rows]) for at in range(0, len(rows), self.asked.micro_rows)]
        labelled = self.asked.rows * self.asked.length
        sums = self.executor.forward_backward(batches, labelled)
        self.optimizer.step(3e-4)
        self.losses.append(sums.values["loss"] / labelled)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class _EvenGate(Gate):
    """Every expert in turn, with the weights that the gate would give it."""

    def forward(self, x_TD: Tensor) -> Routing:
        routing = super().forward(x_TD)
        tokens, choices = routing.experts_TK.shape
        turn = torch.arange(tokens * choices, device=x_TD.device).view(tokens, choices)
        experts = turn % self.config.n_routed_experts
        return Routing(expert_weights(routing.affinities_TE, experts, self.config), experts, routing.affinities_TE)


def _batch(tokens: Tensor) -> Microbatch:
    documents = torch.zeros(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.int32, device=tokens.device)
    return Microbatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), documents)


def _chain(asked: Asked, device: torch.device) -> Tensor:
    """[pool, rows, length + 1] tokens: the follower of the one before, or now and then any."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = asked.model.vocab_size
    follower = torch.randperm(vocabulary, generator=generator)
    shape = (_POOL * asked.rows, asked.length + 1)
    drawn = torch.randint(vocabulary, shape, generator=generator)
    follows = torch.rand(shape, generator=generator) < _FOLLOWS
    for place in range(1, shape[1]):
        drawn[:, place] = torch.where(follows[:, place], follower[drawn[:, place - 1]], drawn[:, place])
    return drawn.view(_POOL, asked.rows, -1).to(device)


def ceiling_gflops(number: torch.dtype, device: torch.device) -> float:
    """What a large square matrix product reaches in this process: the median of five, each of 0.1 s or more."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(number) for _ in range(2))

    def seconds(times: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    seconds(3)
    times = max(1, round(0.1 / seconds(3)))
    return 2 * size**3 / statistics.median(seconds(times) for _ in range(5)) / 1e9


class Bench(Protocol):
    """What can be timed in rounds."""

    @property
    def described(self) -> str:
        """In a few words."""

    def round_ms(self) -> float:
        """Run a round: its milliseconds."""

    def record(self, rounds_ms: list[float]) -> dict[str, Any]:
        """All figures, of the rounds' median."""


def timed(bench: Bench, rounds: int, on_round: Callable[[float], None]) -> dict[str, Any]:
    """The record after `rounds` rounds."""
    measured = []
    for _ in range(rounds):
        measured.append(bench.round_ms())
        on_round(measured[-1])
    return bench.record(measured)


def serve(bench: Bench, lines: Iterable[str], say: Callable[[str], None]) -> None:
    """Run a round for every line until `quit`, so that several systems can be timed in turn on one machine.

    Says READY first, `{"round_ms": X}` for each round, and the record at the end.
    """
    say(f"READY {bench.described}")
    measured: list[float] = []
    for line in lines:
        if line.strip() == "quit":
            break
        measured.append(bench.round_ms())
        say(json.dumps({"round_ms": measured[-1]}))
    if measured:
        say(json.dumps(bench.record(measured)))
