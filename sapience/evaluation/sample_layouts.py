"""The layouts in which stages keep answers, read into one record: rollouts, training samples, preference pairs, evaluations.

A record that has not what its layout promises raises ValueError, KeyError, TypeError, AttributeError or OverflowError.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadSample:
    """An answer and what is known of it; empty or None where its stage does not say."""

    stage: str
    """`reinforce`, `specialise/math`, `distill/reasoned`, `evaluate/finetune`, …"""
    category: str
    """A problem's family, or the kind of an everyday wish."""
    messages: tuple[tuple[str, str], ...]
    """Role and content of the turns before the answer."""
    answer: str
    verdict: str = ""
    """`ok`, or why not; `chosen` and `rejected` for the two answers of a preference pair."""
    reward: float | None = None
    sources: Mapping[str, float] = field(default_factory=dict)
    """The reward's parts, by who gave them."""
    advantage: float | None = None
    step: int | None = None
    phase: str = ""
    expected: str = ""
    tokens: int | None = None
    finished: bool | None = None
    written_by: str = ""
    note: str = ""
    """What the judge or the reviewer said."""

    @property
    def judged(self) -> bool:
        """Whether a judge said that the answer is right or wrong."""
        return self.verdict not in ("", "infra_error", "chosen", "rejected")

    def record(self) -> dict[str, Any]:
        """A JSON-able copy without what is not known."""
        known = {name: getattr(self, name) for name in ReadSample.__slots__}
        known["messages"] = [{"role": role, "content": content} for role, content in self.messages]
        return {name: value for name, value in known.items() if value not in ("", None, {})}


def _rollout(stage: str, record: dict[str, Any]) -> list[ReadSample]:
    """What GRPO kept of one drawn answer."""
    sources = {str(name): float(value) for name, value in (record.get("sources") or {}).items() if _number(value)}
    return [
        ReadSample(
            stage, _text(record.get("category")), _turns(record["messages"]), _said(record["text"]),
            verdict=_text(record.get("verdict")), reward=_number(record.get("reward")), sources=sources,
            advantage=_number(record.get("advantage")), step=_whole(record.get("step")),
            phase=_text(record.get("phase")), expected=_text(record.get("expected")),
            tokens=_count(record.get("tokens")), finished=_flag(record.get("finished")),
        )
    ]  # fmt: skip


def _training_sample(stage: str, record: dict[str, Any]) -> list[ReadSample]:
    """A conversation that ends with the answer to be learned."""
    *before, (role, answer) = _turns(record["messages"])
    if role != "assistant":
        raise ValueError("the last turn is no answer")
    category = _text(record.get("family")) or _text(record.get("domain"))
    return [ReadSample(stage, category, tuple(before), answer, written_by=_text(record.get("source")))]


def _pair(stage: str, record: dict[str, Any]) -> list[ReadSample]:
    """A preference pair as the two answers it compares."""
    category, messages = _text(record.get("category")), _turns(record["messages"])
    source, reason = _text(record.get("source")), _text(record.get("reason"))
    return [
        ReadSample(stage, category, messages, _said(record[name]), verdict=name, written_by=source, note=reason)
        for name in ("chosen", "rejected")
    ]


def _evaluated(stage: str, record: dict[str, Any]) -> list[ReadSample]:
    """What a model said to a question of the evaluation: a problem, a wish, or a needle in a long text."""
    asked = record.get("prompt")
    if asked is None:
        where = f"at {100 * float(record['depth']):.0f} % of {record['length']} tokens"
        asked = f"the number told of '{record['word']}' {where}"
    right = "ok" if record["correct"] else "wrong"
    category = _text(record.get("family")) or _text(record.get("wish")) or _text(record.get("kind"))
    return [
        ReadSample(
            stage, category, (("user", _said(asked)),), _said(record["produced"]),
            verdict=_text(record.get("verdict")) or right, expected=_text(record.get("answer")).strip(),
            tokens=_count(record.get("tokens")), finished=_flag(record.get("finished")),
            note=_text(record.get("detail")),
        )
    ]  # fmt: skip


PARSERS = {
    "specialise": _rollout, "reinforce": _rollout, "distill": _training_sample, "review": _training_sample,
    "reward": _pair, "evaluate": _evaluated,
}  # fmt: skip
"""By stage: its name and a line's record -> the answers in it."""


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(turn["role"]), _said(turn["content"])) for turn in messages)


def _said(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("an answer or question is no text")
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and _number(value) is not None else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    """Tokens, given as a number or one by one."""
    return len(value) if isinstance(value, list) else _whole(value)
