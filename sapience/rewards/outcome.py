"""What a submission did in its sandbox, read from what came out of it.

A runner inside tells one line of JSON for every case: an answer, what a program wrote, or why there is neither. The
submission could write such lines too; a line says at most what it believes the answer to be, and only the first counts.
"""

from __future__ import annotations

import binascii
import json
import signal
from dataclasses import dataclass
from typing import Any, cast, get_args

from sapience.rewards.comparison import NotPlain, decoded
from sapience.rewards.contained_process import Contained
from sapience.rewards.limits import Limits
from sapience.rewards.verdict import VerdictKind

DETAIL_LETTERS = 300
_TOLD_BY_THE_RUNNER = frozenset(get_args(VerdictKind)) - {"ok", "wrong", "infra_error"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a case, or all of them, has no answer."""

    kind: VerdictKind
    detail: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function returned, or a program wrote (bytes)."""

    value: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a submission did: one entry for each case, and what befell all of them, if anything."""

    cases: tuple[Answer | Failure, ...]
    whole: Failure | None = None


OUT_OF_MEMORY = Failure("memory", "all processes together held more memory than the limit")


def read_outcome(contained: Contained, count: int, limits: Limits) -> Outcome:
    """An entry for each of `count` cases; where the sandbox itself failed, the whole is an `infra_error`."""
    if not contained.started:
        reason = contained.complaint or f"{contained.ending}, status {contained.status}"
        return Outcome((), Failure("infra_error", f"the sandbox did not start: {reason}"[:DETAIL_LETTERS]))
    if contained.ending == "wall":
        return Outcome((), Failure("infra_error", f"no processor for it within {limits.wall_seconds:g} s"))
    if contained.ending == "lost":
        return Outcome((), Failure("infra_error", "the sandbox was ended from outside"))
    cases: list[Answer | Failure | None] = [None] * count
    whole = _whole_failure(contained, limits)
    for line in contained.output[: limits.output_bytes].splitlines():
        case, told = _parsed(line)
        if case == -1 and isinstance(told, Failure):
            whole = whole or told
        elif told is not None and 0 <= case < count and cases[case] is None:
            cases[case] = told
    missing = whole or (OUT_OF_MEMORY if contained.out_of_memory else _unanswered(contained.status))
    if contained.out_of_memory:
        cases = [OUT_OF_MEMORY if _killed(case) else case for case in cases]
    return Outcome(tuple(case or missing for case in cases), whole)


def _killed(case: Answer | Failure | None) -> bool:
    return (
        isinstance(case, Failure) and case.kind == "runtime_error" and f"signal {signal.SIGKILL.value}" in case.detail
    )


def _whole_failure(contained: Contained, limits: Limits) -> Failure | None:
    if contained.ending == "output":
        return Failure("output_limit", f"more than {limits.output_bytes} bytes of answers")
    if contained.ending == "disk":
        return Failure("output_limit", "wrote more to files than there is room for")
    if contained.ending == "idle":
        return Failure("timeout", f"waited or overspent, without an end after {limits.wall_seconds:g} s")
    return None


def _unanswered(status: int) -> Failure:
    """Why a case has no answer when the runner has ended."""
    if -status in (signal.SIGPROF, signal.SIGXCPU):
        return Failure("timeout", "processor time used up")
    if status < 0:
        return Failure("runtime_error", f"the program was ended by signal {-status}")
    return Failure("runtime_error", "the program ended without an answer")


def _parsed(line: bytes) -> tuple[int, Answer | Failure | None]:
    """The case a line speaks of and what it says; a line that nobody should have written says nothing."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return -1, None
    if not isinstance(record, dict) or type(record.get("case")) is not int:
        return -1, None
    if "answer" in record:
        try:
            return record["case"], Answer(decoded(record["answer"]))
        except NotPlain as error:
            return record["case"], Failure("runtime_error", f"answered with {error}")
    if "stdout" in record:
        written = from_base64(record["stdout"])
        return (record["case"], Answer(written)) if written is not None else (-1, None)
    kind, detail = record.get("kind"), record.get("detail")
    if kind in _TOLD_BY_THE_RUNNER and isinstance(detail, str):
        return record["case"], Failure(cast(VerdictKind, kind), detail[:DETAIL_LETTERS])
    return -1, None


def from_base64(text: Any) -> bytes | None:
    """Bytes that a runner told; None for what is no base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True) if isinstance(text, str) else None
    except (ValueError, binascii.Error):
        return None
