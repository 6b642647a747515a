"""Whole programs: compiled in one sandbox, run in another, once for every test's standard input.

The compiler's sandbox has the compiler's needs and no test; that of the tests has the program and its inputs, never the
expected outputs. All tests of a submission share a sandbox (putting one up takes longer than most tests), each run being
a process of its own after which everything it started is killed; where that cannot be done from inside, every test has
a sandbox. A function becomes a program by what calls it (`functions`).

Limits hold for each test: `Limits.cpu_seconds` on top of what the language's runtime takes to begin. Not covered:
interactive programs, special checkers.
"""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from threading import RLock
from typing import Any

from sapience.problems.problem import Language, Problem, StreamCase
from sapience.recipe.errors import UserError
from sapience.rewards.contained_job import Surroundings, program_text
from sapience.rewards.functions import Written, as_input, read_answer, with_driver
from sapience.rewards.limits import Limits
from sapience.rewards.outcome import Answer, Failure, Outcome, from_base64, read_outcome
from sapience.rewards.sandbox import Sandbox
from sapience.rewards.syscall_filter import filter_program
from sapience.rewards.toolchains import Installed, Toolchain, installed

COMPILER = Limits(cpu_seconds=60.0, wall_seconds=240.0, memory_mb=2048, output_bytes=64 << 20, processes=128)
"""What compiling one submission may take."""
_PROOF = Limits(cpu_seconds=10.0, wall_seconds=120.0)
_COMPILER_SCRATCH = 512 << 20
_COMPILER_RESERVED_MB = 2048
"""Address space for the code of compilers and the stacks of their threads, on top of what a language's runtime reserves."""
_STDIN = ".stdin"


class Programs:
    """Compiles and runs submissions in a sandbox; keeps what it compiled for a while."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._compiled = lru_cache(maxsize=64)(self._compile)
        self._proven: set[Language] = set()
        self._proving = RLock()

    def outcome(self, problem: Problem, source: str, limits: Limits) -> Outcome:
        """What the submission did with every test. Raises UserError where the language cannot be judged here."""
        kit = installed(problem.language)
        if self.sandbox.weaker:
            self._prove(kit)
        interpreted = problem.language == "python"
        made = {} if interpreted else self._compiled(problem.language, source, problem.entry_point)
        if isinstance(made, Failure):
            if made.kind == "infra_error":
                self._compiled.cache_clear()
            return Outcome((), made) if made.kind == "infra_error" else _all(made, len(problem.tests))
        inputs = [_input(problem.language, test) for test in problem.tests]
        command = kit.command(_written(kit, source, problem.entry_point).run, source, limits.memory_mb)
        read = self._tests(kit, limits, made, command, inputs, source if interpreted else None)
        if not problem.entry_point:
            return read
        return replace(read, cases=tuple(read_answer(problem.language, case) for case in read.cases))

    def _prove(self, kit: Installed) -> None:
        """Raises UserError where a right program is not: submissions must not pay for what a language lacks in a sandbox."""
        language = kit.toolchain.language
        with self._proving:
            if language in self._proven:
                return
            self._proven.add(language)
            problem = Problem("proof", "code", "", "", "", tests=(StreamCase("", "works"),), language=language)
            outcome = self.outcome(problem, kit.toolchain.proof, _PROOF)
            case = (*outcome.cases, outcome.whole)[0]
            if isinstance(case, Answer) and same_output(case.value, "works"):
                return
            self._proven.discard(language)
            if outcome.whole is None or outcome.whole.kind != "infra_error":
                raise UserError(
                    f"programs in {language} do not work in the sandbox {self.sandbox.tier} on this machine "
                    f"({getattr(case, 'detail', case)}): have bubblewrap judge, or take them out of the recipe"
                )

    def _compile(self, language: Language, source: str, entry_point: str) -> dict[str, bytes] | Failure:
        """The files of a submission that can be run, or why there are none."""
        kit = installed(language)
        written = _written(kit, source, entry_point)
        files = {name: text.encode("utf-8", "replace") for name, text in written.files.items()}
        command = kit.command(written.compile, source, COMPILER.memory_mb)
        around = _surroundings(kit, files, _COMPILER_SCRATCH, for_compiler=True)
        payload = _payload(kit, command, [b""], COMPILER.cpu_seconds, 1 << 16, {})
        payload |= {"keep": True, "clears": self.sandbox.clears}
        contained = self.sandbox.run(program_text("stream_runner"), payload, COMPILER, around)
        read = read_outcome(contained, 1, COMPILER)
        if read.whole is not None and read.whole.kind == "infra_error":
            return read.whole
        case = read.cases[0]
        if isinstance(case, Failure):
            return replace(case, kind="compile_error") if case.kind == "runtime_error" else case
        return files | _made(contained.output)

    def _tests(
        self,
        kit: Installed,
        limits: Limits,
        files: dict[str, bytes],
        command: list[str],
        inputs: list[bytes],
        python: str | None,
    ) -> Outcome:
        """All tests in one sandbox or, where nothing inside can clear up after one, each in its own up to a common failure."""
        if self.sandbox.clears:
            return self._run(kit, limits, files, command, inputs, python)
        cases: list[Answer | Failure] = []
        for given in inputs:
            read = self._run(kit, limits, files | {_STDIN: given}, command, [_STDIN], python)
            cases += read.cases
            if read.whole is not None:
                return replace(read, cases=(*cases, *[read.whole] * (len(inputs) - len(cases))))
        return Outcome(tuple(cases))

    def _run(
        self,
        kit: Installed,
        limits: Limits,
        files: dict[str, bytes],
        command: list[str],
        inputs: list[bytes] | list[str],
        python: str | None,
    ) -> Outcome:
        seconds = limits.cpu_seconds + kit.toolchain.start_seconds
        bounds = {"RLIMIT_CPU": math.ceil(seconds)}
        payload = _payload(kit, command, inputs, seconds, limits.output_bytes, bounds)
        payload |= {"python": python, "clears": self.sandbox.clears}
        if kit.toolchain.reserved_mb and not self.sandbox.clears:
            payload["filter"] = filter_program((), processes=False)
        around = _surroundings(kit, files, max(1 << 24, 2 * sum(map(len, files.values()))))
        room = _room(limits, len(inputs), kit.toolchain)
        return read_outcome(self.sandbox.run(program_text("stream_runner"), payload, room, around), len(inputs), room)


def _written(kit: Installed, source: str, entry_point: str) -> Written:
    if entry_point:
        return with_driver(kit, source, entry_point)
    return Written({kit.source_name(source): source}, kit.toolchain.compile, kit.toolchain.run)


def _payload(
    kit: Installed,
    command: list[str],
    inputs: list[bytes] | list[str],
    seconds: float,
    output_bytes: int,
    bounds: dict[str, int],
) -> dict[str, Any]:
    return {
        "command": command, "environment": dict(kit.toolchain.environment), "inputs": inputs,
        "cpu_seconds": seconds, "output_bytes": output_bytes, "keep": False, "python": None, "filter": b"",
        "limits": bounds | {"RLIMIT_STACK": _stack()},
    }  # fmt: skip


def _stack() -> int:
    """Room for deep recursion, as contests give it, as far as we have it ourselves."""
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    return 64 << 20 if most == resource.RLIM_INFINITY else min(most, 64 << 20)


def _surroundings(
    kit: Installed, files: Mapping[str, bytes], scratch_bytes: int, for_compiler: bool = False
) -> Surroundings:
    chain = kit.toolchain
    reserved = chain.reserved_mb + (_COMPILER_RESERVED_MB if for_compiler else 0)
    return Surroundings(
        kit.visible, scratch_bytes, reserved, chain.sees_itself or for_compiler, makes_files=for_compiler, files=files
    )


def _room(limits: Limits, tests: int, chain: Toolchain) -> Limits:
    """Limits of the whole sandbox: of all tests together."""
    seconds = limits.cpu_seconds + chain.start_seconds
    return Limits(
        cpu_seconds=tests * seconds + 1.0,
        wall_seconds=limits.wall_seconds + 4 * tests * seconds,
        memory_mb=limits.memory_mb,
        output_bytes=tests * (2 * limits.output_bytes + 2048),
        processes=limits.processes + chain.tasks + 2,
    )


def _made(output: bytes) -> dict[str, bytes]:
    """The files that a compiler left, as the runner told them."""
    files = {}
    for line in output.splitlines():
        if line.startswith(b'{"file":'):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            name, data = from_base64(record.get("file")), from_base64(record.get("data"))
            if name is not None and data is not None:
                files[name.decode("utf-8", "replace")] = data
    return files


def _input(language: Language, test: Any) -> bytes:
    return test.stdin.encode("utf-8", "replace") if isinstance(test, StreamCase) else as_input(language, test.args)


def _all(failure: Failure, count: int) -> Outcome:
    return Outcome((failure,) * count, failure)


def same_output(written: bytes, expected: str) -> bool:
    """Whether a program wrote what it should: blanks at line ends and empty lines at the end aside."""
    return _lines(written.decode("utf-8", "replace")) == _lines(expected)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
