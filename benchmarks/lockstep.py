"""Several systems timed in turn on one machine, a round of each at a time, so that their ratio holds where its speed drifts.

    python benchmarks/lockstep.py --rounds 7 "sapience bench train --config nano --serve" \\
        "python benchmarks/transformers_train.py --config nano --serve"

A system is a command that prints a line beginning with READY once it is warm, runs a round for every line on its standard
input and answers {"round_ms": X}, and prints its record, one JSON object, on the line `quit`. The systems warm up one after
another; then each runs a round in turn, and another one begins every time. The others wait meanwhile, but on a GPU all of
them hold their memory at once. `python` and `sapience` are those beside this script's own interpreter, where there are some.

Prints a system's record as one JSON line, with `rounds_ms`, `median_ms`, and `ratio`: the median, over the rounds, of its
time divided by the first system's. A system that dies or keeps silent ends it all: none is left running.
"""

import argparse
import json
import math
import os
import select
import shlex
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

GRACE = 5.0
"""Seconds that a system has to end, when it has said all, or when it is asked to by SIGTERM."""
POLL = 0.5
"""Seconds between two looks at whether a silent system lives: another process may hold its output open."""


class SystemFailed(Exception):
    """A system that cannot be timed. The message says which one and why."""


class System:
    """A command that speaks the protocol, in a process group of its own, which ends with the block."""

    def __init__(self, command: str, patience: float) -> None:
        self.command, self.patience = command, patience
        self.rounds_ms: list[float] = []
        self._unread = b""
        self._ended = False
        beside = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        try:
            self.process = subprocess.Popen(
                shlex.split(command), bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                env=os.environ | {"PATH": os.pathsep.join(beside)},
            )  # fmt: skip
        except (OSError, ValueError, IndexError) as error:
            raise SystemFailed(f"{command!r} cannot be started: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process and what it started, whatever it is doing. Once: its number may be another's later."""
        if self._ended:
            return
        self._ended = True
        try:
            if self.process.poll() is None:
                self._signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(GRACE)
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def wait_until_ready(self) -> str:
        """What stands behind READY."""
        deadline = time.monotonic() + self.patience
        while not (line := self._line(deadline, "READY")).startswith("READY"):
            self._pass_on(line)
        return line.removeprefix("READY").strip()

    def run_round(self) -> float:
        """Milliseconds, as the system measured them."""
        answer = self._ask("round", "an answer")
        found = answer.get("round_ms")
        if not isinstance(found, int | float) or not 0 < found < math.inf:
            raise SystemFailed(f'{self.command!r} answered {json.dumps(answer)}, not {{"round_ms": X}} with X above 0')
        self.rounds_ms.append(float(found))
        return self.rounds_ms[-1]

    def quit(self) -> dict[str, Any]:
        """Its record. It is gone before the next system takes its last figures."""
        record = self._ask("quit", "a record")
        with suppress(OSError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.end()
        return record

    def _ask(self, question: str, wanted: str) -> dict[str, Any]:
        deadline = time.monotonic() + self.patience
        try:
            self.process.stdin.write(f"{question}\n".encode())
        except OSError:
            raise SystemFailed(self._died(wanted)) from None
        while True:
            line = self._line(deadline, wanted)
            with suppress(ValueError):
                if isinstance(answer := json.loads(line), dict):
                    return answer
            self._pass_on(line)

    def _line(self, deadline: float, wanted: str) -> str:
        """The next line of its output. Raises SystemFailed where none comes in time, or ever."""
        output = self.process.stdout
        while b"\n" not in self._unread:
            ended = self.process.poll() is not None
            left = deadline - time.monotonic()
            if select.select([output], [], [], 0 if ended else max(0.0, min(left, POLL)))[0]:
                if not (read := os.read(output.fileno(), 1 << 16)):
                    raise SystemFailed(self._died(wanted))
                self._unread += read
            elif ended:
                raise SystemFailed(self._died(wanted))
            elif left <= 0:
                raise SystemFailed(
                    f"{self.command!r} did not give {wanted} within {self.patience:g} seconds: see its messages above, or "
                    "give it longer with --patience"
                )
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def _died(self, wanted: str) -> str:
        """What to say of a system that will say no more."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(GRACE)
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            return f"{self.command!r} ended before it gave {wanted} ({how}): see its messages above"
        return f"{self.command!r} closed its output before it gave {wanted}"

    def _pass_on(self, line: str) -> None:
        """Show what is not for us: messages that a library prints."""
        print(f"{self.command}: {line}", file=sys.stderr, flush=True)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def timed_in_turn(commands: list[str], rounds: int, gap: float, patience: float) -> list[dict[str, Any]]:
    """Every system's record with its times. Raises SystemFailed for the first one that fails; none runs on either way."""
    with ExitStack() as running:
        systems: list[System] = []
        for number, command in enumerate(commands, start=1):
            began = time.monotonic()
            systems.append(running.enter_context(System(command, patience)))
            described = systems[-1].wait_until_ready()
            say(f"system {number} ready after {time.monotonic() - began:.1f} s: {command} ({described})")
        first = systems[0]
        for turn in range(rounds):
            if turn:
                time.sleep(gap)
            begins = turn % len(systems)
            for system in systems[begins:] + systems[:begins]:
                system.run_round()
            shown = (f"{one.rounds_ms[-1]:.1f} ms ({one.rounds_ms[-1] / first.rounds_ms[-1]:.3f})" for one in systems)
            say(f"round {turn + 1} of {rounds}: {', '.join(shown)}")
        records = []
        for system in systems:
            ratio = statistics.median(
                here / there for here, there in zip(system.rounds_ms, first.rounds_ms, strict=True)
            )
            records.append(
                system.quit()
                | {"command": system.command, "rounds_ms": [round(ms, 3) for ms in system.rounds_ms],
                   "median_ms": round(statistics.median(system.rounds_ms), 3), "ratio": round(ratio, 4)}
            )  # fmt: skip
        return records


def ended_from_outside(number: int, _: FrameType | None) -> None:
    """A signal that would end this process without a word ends the systems too."""
    raise SystemExit(128 + number)


def main() -> None:
    """Parse, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", metavar="COMMAND", help="a system; ratios are to the first one's times")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each system (default: 5)")
    parser.add_argument("--gap", type=float, default=0.0, metavar="SECONDS", help="pause between rounds")
    parser.add_argument(
        "--patience", type=float, default=900.0, metavar="SECONDS", help="for READY and every answer (default: 900)"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.gap < 0 or not arguments.patience > 0:
        parser.error("--rounds must be 1 or more, --gap 0 or more, --patience above 0")
    signal.signal(signal.SIGTERM, ended_from_outside)
    try:
        records = timed_in_turn(arguments.commands, arguments.rounds, arguments.gap, arguments.patience)
    except SystemFailed as failure:
        say(f"lockstep: {failure}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("lockstep: interrupted; no system is left running")
        raise SystemExit(128 + signal.SIGINT) from None
    for record in records:
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
