"""Figures that take more than one model: paired differences along the journey, and experts beside the other models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from sapience.evaluation.measured_models import MeasuredModel
from sapience.evaluation.paired import change
from sapience.evaluation.scoring import score_of

Verdicts = Mapping[str, Mapping[str, bool]]
"""Family -> problem's identity -> whether it was solved."""


def paired_figures(names: Sequence[str], verdicts: Mapping[str, Verdicts]) -> dict[str, Any]:
    """Each model against the one before it, on the same problems.

    `paired.LATER_EARLIER` is [difference, low, high] of the shares solved; `paired_families.LATER_EARLIER.FAMILY` has
    the same by family with the problems gained and lost.
    """
    overall: dict[str, list[float]] = {}
    by_family: dict[str, dict[str, Any]] = {}
    measured = [name for name in names if verdicts.get(name)]
    for earlier, later in pairwise(measured):
        pair = f"{later}_{earlier}"
        whole = change(_flat(verdicts[later]), _flat(verdicts[earlier]))
        if whole is None:
            continue
        overall[pair] = [whole.difference, whole.low, whole.high]
        by_family[pair] = {}
        for family, solved in verdicts[later].items():
            part = change(solved, verdicts[earlier].get(family, {}))
            if part is not None:
                by_family[pair][family] = {**asdict(part), "reliable": part.reliable}
    return {"paired": overall, "paired_families": by_family} if overall else {}


def expert_figures(models: Sequence[MeasuredModel], verdicts: Mapping[str, Verdicts]) -> dict[str, Any]:
    """Experts on the problems of their own domain, and every other model on the same problems.

    `expert_accuracy.DOMAIN` and `expert_interval.DOMAIN` are the expert's,
    `domain_accuracy.MODEL.DOMAIN` and `domain_interval.…` the others', and `domain_paired.MODEL.DOMAIN` is
    [difference, low, high] of the model minus the expert.
    """
    figures: dict[str, dict[str, Any]] = {
        "expert_accuracy": {}, "expert_interval": {}, "domain_accuracy": {}, "domain_interval": {}, "domain_paired": {},
    }  # fmt: skip
    others = [model.name for model in models if model.kind != "expert" and verdicts.get(model.name)]
    for expert in models:
        if expert.kind != "expert" or not verdicts.get(expert.name):
            continue
        domain, own = expert.domain, _flat(verdicts[expert.name])
        score = score_of(list(own.values()))
        figures["expert_accuracy"][domain] = score.accuracy
        figures["expert_interval"][domain] = list(score.interval)
        for name in others:
            solved = {problem: right for problem, right in _flat(verdicts[name]).items() if problem in own}
            if not solved:
                continue
            theirs = score_of(list(solved.values()))
            figures["domain_accuracy"].setdefault(name, {})[domain] = theirs.accuracy
            figures["domain_interval"].setdefault(name, {})[domain] = list(theirs.interval)
            apart = change(solved, own)
            if apart is not None:
                figures["domain_paired"].setdefault(name, {})[domain] = [apart.difference, apart.low, apart.high]
    return {name: value for name, value in figures.items() if value}


def _flat(verdicts: Verdicts) -> dict[str, bool]:
    return {f"{family} {identity}": solved for family, found in verdicts.items() for identity, solved in found.items()}
