"""How many OpenMP threads, and how they wait for one another, chosen by timing a few training steps.

PyTorch's CPU wheel brings GNU OpenMP. Between two parallel loops its threads spin, by default for milliseconds; on
idle cores that is fast, but on crowded cores the spinning thread keeps the core from the one it waits for, and a step
takes up to 40 times as long. Sleeping at once (`OMP_WAIT_POLICY=PASSIVE`) is safe and costs a sixth on idle cores.
A *short* spin (GOMP_SPINCOUNT) lies between. Milliseconds per step of a small mixture of experts, two threads on two
cores, with a process that takes one core beside it, and with three or four such:

    spin count            idle cores   one neighbour   crowded
    default (active)              67         149-234      7064
    3000                          69             205
    1000                          75             152       221
    0 (sleeping)                  78             127       223
    one thread                   110             114       254

So the candidates are 3000 and sleeping: on idle cores 3000 wins nearly all there is to win, and a neighbour who comes
later makes it slow (1.6 times sleeping) but not hopeless. Unbounded spinning is never taken.

The variables are read when the library is loaded: they must be set before torch is imported, and each candidate is
timed in a process of its own. The number of threads changes the order of floating-point sums, so it is taken from the
machine (all cores) unless fewer are clearly faster, and a run keeps the number that it began with. How threads wait
changes no result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sapience.run import write_atomically

CHOICE_FILE = "machine.json"
SHORT_SPIN = {"GOMP_SPINCOUNT": "3000"}
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
CLEARLY = 1.3
"""Fewer threads are taken where they are this many times as fast, twice in a row."""
MOST_THREADS = 32
"""A training step of a model that fits a CPU does not get faster beyond."""
NOTICEABLY = 1.05
"""Spinning is taken where sleeping needs this many times as long: a tie goes to what is safe."""
PROBE_SECONDS = 0.8
PROBE_LIMIT = 30.0
"""Seconds after which a probe (torch's import included) counts as failed."""
_OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@dataclass(frozen=True)
class ThreadChoice:
    """What to set before torch is imported."""

    threads: int
    environment: dict[str, str]
    timings: dict[str, float]
    """Milliseconds per probe step by candidate, e.g. `2 threads, GOMP_SPINCOUNT=3000`; empty where nothing was timed."""

    def sentence(self) -> str:
        """For the person who starts the run."""
        how = "spin briefly" if "GOMP_SPINCOUNT" in self.environment else "sleep"
        return f"Arithmetic on {self.threads} threads, which {how} while they wait."

    def apply(self) -> None:
        """Put the choice into this process. Raises RuntimeError once torch is loaded, when it would have no effect."""
        if "torch" in sys.modules:
            raise RuntimeError("threads must be chosen before torch is imported")
        for name in _OURS:
            os.environ.pop(name, None)
        os.environ.update(self.environment)


Probe = Callable[[int, Mapping[str, str]], float | None]
"""(threads, environment) -> milliseconds per step, or None where the probe failed."""


def choose(cores: int, threads: int = 0, probe: Probe | None = None) -> ThreadChoice:
    """Threads and waiting policy for `cores` usable cores; a positive `threads` fixes the number. About 3 s a probe.

    Where the probes fail: all cores, sleeping, which is safe everywhere.
    """
    run_probe = probe or _timed_in_a_process
    timings: dict[str, float] = {}

    def time_of(count: int, waiting: Mapping[str, str]) -> float | None:
        taken = run_probe(count, waiting)
        if taken is not None:
            timings[_label(count, waiting)] = round(taken, 2)
        return taken

    if threads == 1 or cores == 1:
        return _choice(threads or 1, SLEEP, timings)
    count, waiting = threads or min(cores, MOST_THREADS), SLEEP
    short, sleeping = time_of(count, SHORT_SPIN), time_of(count, SLEEP)
    if short is not None and (sleeping is None or NOTICEABLY * short < sleeping):
        waiting = SHORT_SPIN
    best = short if waiting is SHORT_SPIN else sleeping
    while not threads and best is not None and count > 1:
        fewer = time_of(count // 2, waiting)
        if fewer is None or best < CLEARLY * fewer:
            break
        again, fewer_again = run_probe(count, waiting), run_probe(count // 2, waiting)
        if again is None or fewer_again is None or again < CLEARLY * fewer_again:
            break
        count, best = count // 2, fewer
    return _choice(count, waiting, timings)


def load_or_choose(run_folder: Path, cores: int, threads: int = 0, probe: Probe | None = None) -> ThreadChoice:
    """The choice that a run began with, or a new one, written into the run's folder.

    `threads` is the recipe's wish (0 for none); another wish than the stored number is a new choice.
    """
    path = run_folder / CHOICE_FILE
    try:
        stored = ThreadChoice(**json.loads(path.read_text(encoding="utf-8")))
        if stored.threads >= 1 and threads in (0, stored.threads):
            return stored
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or torn: choose
    choice = choose(cores, threads, probe)
    run_folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(choice), indent=1) + "\n")
    return choice


def _choice(threads: int, waiting: Mapping[str, str], timings: dict[str, float]) -> ThreadChoice:
    return ThreadChoice(threads, {"OMP_NUM_THREADS": str(threads), **waiting}, timings)


def _label(threads: int, waiting: Mapping[str, str]) -> str:
    return f"{threads} threads, " + ", ".join(f"{name}={value}" for name, value in waiting.items())


def _timed_in_a_process(threads: int, waiting: Mapping[str, str]) -> float | None:
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    environment |= {"OMP_NUM_THREADS": str(threads), **waiting}
    command = [sys.executable, "-m", "sapience.planning.threads", "--probe"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_LIMIT, check=True)
        return float(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def probe_step_milliseconds(seconds: float = PROBE_SECONDS) -> float:
    """Mean time of a training step of a small attention-and-experts model in this process, timed for `seconds`.

    The sizes are the demo's: many products of a few hundred rows, each a parallel loop of well under a millisecond.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    width, inner, experts, vocabulary, rows, length = 128, 96, 8, 1024, 16, 128
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> nn.Parameter:
        return nn.Parameter(0.05 * torch.randn(*shape, generator=generator))

    table, joined = weight(vocabulary, width), [weight(width, 3 * width) for _ in range(2)]
    up = [weight(experts, width, inner) for _ in range(2)]
    down = [weight(experts, inner, width) for _ in range(2)]
    parameters = [table, *joined, *up, *down]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    tokens = torch.randint(vocabulary, (rows, length), generator=generator)

    def step() -> None:
        hidden = functional.embedding(tokens, table)
        for project, raising, lowering in zip(joined, up, down, strict=True):
            normed = functional.rms_norm(hidden, (width,)) @ project
            query, key, value = (part.view(rows, length, 4, -1).transpose(1, 2) for part in normed.chunk(3, dim=-1))
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + mixed.transpose(1, 2).flatten(2)
            shares = functional.rms_norm(hidden, (width,)).flatten(0, 1).chunk(experts)
            outputs = [functional.silu(share @ raising[place]) @ lowering[place] for place, share in enumerate(shares)]
            hidden = hidden + torch.cat(outputs).view_as(hidden)
        loss = functional.cross_entropy((hidden @ table.T).flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    done, start = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - start < seconds:
        step()
        done += 1
    return 1000 * (time.perf_counter() - start) / done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="time a few training steps with the threads of this environment")
    parser.add_argument("--probe", action="store_true", required=True)
    parser.parse_args()
    sys.stdout.write(f"{probe_step_milliseconds():.3f}\n")
