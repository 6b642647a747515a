"""What a judge says about one answer.

A verdict tells *why* an answer does not count, since the reasons call for different things: a wrong answer is reward 0,
while `infra_error` says that the judge itself failed (no process, no time on a crowded machine). That one says
nothing about the answer: the caller drops the sample and counts it, and never turns it into a reward.
How a verdict becomes a number is decided by the stage that trains, not here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

VerdictKind = Literal[
    "ok",
    "wrong",
    "format_error",
    "compile_error",
    "runtime_error",
    "timeout",
    "memory",
    "output_limit",
    "infra_error",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed` of `total` hidden tests; `detail` is one short line for people and logs."""

    kind: VerdictKind
    passed: int = 0
    total: int = 0
    detail: str = ""

    @property
    def right(self) -> bool:
        return self.kind == "ok"

    def record(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return asdict(self)
