"""What the stages after the base model left to be shown: names of models, figures by kind, changes between models.

Figures come from stages of other rooms and from users' own runs; what is not there is left out, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.scoring import share_difference
from sapience.evaluation.wording import percent

LABELS = {"finetune": "fine-tuned (SFT)", "reinforce": "aligned (RL)"}


def label(model: str) -> str:
    """A model's name for readers."""
    return LABELS.get(model, model)


def line_models(run: RunRecord) -> list[str]:
    """The evaluated models in the order of the journey, experts aside: what was measured of each is the recipe's choice."""
    figures = run.figures("evaluate")
    kinds = ("accuracy", "bits_per_byte_beginning", "behaviour")
    return list(dict.fromkeys(name for kind in kinds for name in figures.get(kind) or {}))


def assistants(run: RunRecord) -> list[str]:
    """Those of them that were asked in the chat format."""
    figures = run.figures("evaluate")
    answers, behaviour = figures.get("answers") or {}, figures.get("behaviour") or {}
    return [name for name in line_models(run) if "format_rate" in (answers.get(name) or {}) or behaviour.get(name)]


def before_and_after(run: RunRecord) -> tuple[str, str] | None:
    """The last model before post-training and the last assistant."""
    after = assistants(run)
    before = [name for name in line_models(run) if name not in after]
    return (before[-1], after[-1]) if before and after else None


def by_name(figures: Mapping[str, Any], key: str) -> dict[str, float]:
    """Numbers filed under `key`, be it as a mapping or as `key.NAME`; empty where there are none."""
    nested = figures.get(key)
    found = dict(nested) if isinstance(nested, Mapping) else {}
    found |= {name.removeprefix(f"{key}."): value for name, value in figures.items() if name.startswith(f"{key}.")}
    return {str(name): float(v) for name, v in found.items() if isinstance(v, (int, float))}


@dataclass(frozen=True)
class Shift:
    """A share before and after, and the 95 % interval of the difference."""

    before: float
    after: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """The interval does not include zero."""
        return self.low > 0 or self.high < 0


def shift(before: Mapping[str, Any], after: Mapping[str, Any], share: str, interval: str = "interval") -> Shift | None:
    """The change of `figures[share]` with `figures[interval]`; None where one of the two is missing."""
    if not all(key in figures for figures in (before, after) for key in (share, interval)):
        return None
    a, b = (tuple(figures[interval]) for figures in (after, before))
    _, low, high = share_difference(after[share], a, before[share], b)
    return Shift(before[share], after[share], low, high)


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    rounded = round(100 * difference)
    return f"{rounded:+d}".replace("-", "\N{MINUS SIGN}") if rounded else "0"


def with_interval(share: float, interval: Any) -> str:
    """`33 % (28 to 38)`."""
    if not interval:
        return percent(share)
    low, high = (f"{100 * bound:.0f}" for bound in interval)
    return f"{percent(share)} ({low}\N{EN DASH}{high})"


def judges(run: RunRecord) -> dict[str, list[str]]:
    """Who judged code, in words -> the stages that say so."""
    told: dict[str, list[str]] = {}
    for stage, manifest in run.manifests.items():
        for key in ("judge", "sandbox"):
            description = manifest.figures.get(key)
            if isinstance(description, str) and description:
                told.setdefault(description, []).append(stage)
    return told
