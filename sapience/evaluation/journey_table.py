"""One row per finished stage: what it made, how long it took, the figures that tell what it changed.

The command line prints these rows at the end of a run, the report shows the same. A stage that this module
does not know is shown by its first few plain figures. Nothing here needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sapience.evaluation.post_training import by_name, label, points
from sapience.evaluation.run_record import read_run
from sapience.evaluation.wording import amount, duration, listing, percent, size

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class JourneyRow:
    """A finished stage in words."""

    stage: str
    made: str
    seconds: float
    figures: str
    """The telling figures in words, separated by semicolons."""

    @property
    def took(self) -> str:
        """The time as a reader says it."""
        return duration(self.seconds)


MADE = {
    "corpus": "clean, deduplicated text, some of it held out",
    "tokenizer": "a vocabulary of byte pairs, the text as tokens",
    "pretrain": "a base model that continues text",
    "extend": "the base model with a longer context",
    "specialise": "one expert for each domain",
    "distill": "right answers of the experts, and drafts of everyday ones",
    "review": "everyday answers that passed review",
    "finetune": "an assistant that answers (SFT)",
    "reward": "a judge of what no rule can tell",
    "reinforce": "the assistant, aligned by its own answers (RL)",
    "evaluate": "scores on what no model was trained on",
    "report": "this run on one page",
}


def journey_table(run: Path) -> list[JourneyRow]:
    """The finished stages of a run directory in the order of the journey."""
    return [
        JourneyRow(
            name,
            MADE.get(name, "see its folder"),
            manifest.seconds,
            "; ".join(_FIGURES.get(name, plain_figures)(manifest.figures)),
        )
        for name, manifest in read_run(run).manifests.items()
    ]


def plain_figures(figures: Figures) -> list[str]:
    """The first four single values, by name."""
    single = {name: value for name, value in figures.items() if isinstance(value, (int, float, str))}
    return [
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:,.4g}'}"
        for name, value in list(single.items())[:4]
    ]


def drafts(evaluate: Figures, pretrain: Figures) -> dict[str, dict[str, Any]]:
    """MTP shares by model, {"overall": …, "domains": …}: of the evaluated models, else as pre-training
    measured them."""
    measured = evaluate.get("mtp")
    if not measured and pretrain.get("mtp"):
        measured = {"base": {"overall": pretrain["mtp"], "domains": pretrain.get("mtp_by_domain") or {}}}
    return dict(measured or {})


def compression(figures: Figures) -> tuple[list[str], list[str]]:
    """Domains where the model needs fewer bits per byte than lzma, and those where it does not yet."""
    model, xz = figures.get("bits_per_byte") or {}, figures.get("xz_bits_per_byte") or {}
    compared = [domain for domain in model if domain in xz]
    better = [domain for domain in compared if model[domain] < xz[domain]]
    return better, [domain for domain in compared if domain not in better]


def _corpus(figures: Figures) -> list[str]:
    lines = []
    if "documents" in figures:
        lines.append(f"{amount(_total(figures['documents']))} documents")
    if "bytes" in figures:
        lines.append(size(_total(figures["bytes"])))
    return lines or plain_figures(figures)


def _tokenizer(figures: Figures) -> list[str]:
    lines = []
    if "vocab_size" in figures:
        lines.append(f"{figures['vocab_size']:,} tokens in the vocabulary")
    by_domain = next((figures[k] for k in ("bytes_per_token", "bytes_per_token_by_domain") if k in figures), None)
    values = [value for value in leaves(by_domain) if value > 0]
    if values:
        lines.append(f"{min(values):.2f} to {max(values):.2f} bytes per token")
    return lines or plain_figures(figures)


def _pretrain(figures: Figures) -> list[str]:
    lines = []
    better, worse = compression(figures)
    if better or worse:
        lines.append(f"bits per byte under lzma in {len(better)} of {len(better) + len(worse)} domains")
    if violations := leaves(figures.get("max_violation")):
        lines.append(f"busiest expert {percent(max(violations))} above the even share")
    if isinstance(figures.get("mtp_acceptance"), (int, float)):
        lines.append(f"{percent(figures['mtp_acceptance'])} of MTP drafts accepted")
    return lines or plain_figures(figures)


def _extend(figures: Figures) -> list[str]:
    if "needle_before" not in figures or "needle_after" not in figures:
        return plain_figures(figures)
    return [f"needles found: {percent(figures['needle_before'])} before, {percent(figures['needle_after'])} after"]


def _specialise(figures: Figures) -> list[str]:
    lines = [
        f"{domain}: {percent(both[0])} of answers right after SFT, {percent(both[1])} after GRPO"
        for domain, both in (figures.get("right") or {}).items()
        if isinstance(both, list) and len(both) == 2
    ]
    return lines or nested_figures(figures)


def _finetune(figures: Figures) -> list[str]:
    losses = figures.get("loss")
    if not isinstance(losses, list) or len(losses) != 2 or "samples" not in figures:
        return nested_figures(figures)
    return [f"{amount(figures['samples'])} conversations", f"loss {losses[0]:.2f}, then {losses[1]:.2f}"]


def _reinforce(figures: Figures) -> list[str]:
    both = figures.get("right")
    if not isinstance(both, list) or len(both) != 2:
        return nested_figures(figures)
    lines = [f"{percent(both[0])} of drawn answers right at first, {percent(both[1])} at the end"]
    lengths = figures.get("answer_tokens")
    if isinstance(lengths, list) and len(lengths) == 2:
        lines.append(f"{lengths[0]:.1f} tokens an answer, then {lengths[1]:.1f}")
    return lines


def _distill(figures: Figures) -> list[str]:
    lines = []
    accepted = figures.get("accepted")
    if accepted is not None:
        everyday = by_name(figures, "accepted").get("everyday", 0.0)
        lines.append(f"{amount(_total(accepted) - everyday)} right answers kept")
        lines += [f"{amount(everyday)} everyday conversations"] if everyday else []
    for kind, share in by_name(figures, "right_share").items():
        lines.append(f"{kind}: {percent(share)} right")
    for kind, length in by_name(figures, "length").items():
        lines.append(f"{kind}: {length:.1f} tokens an answer")
    return lines or nested_figures(figures)


def _review(figures: Figures) -> list[str]:
    counts = [name for name in ("unreviewed", "waiting", "accepted", "edited", "rejected") if figures.get(name)]
    lines = [f"{amount(figures[name])} {_REVIEW.get(name, name)}" for name in counts]
    if isinstance(figures.get("agreement"), (int, float)):
        lines.append(f"{percent(figures['agreement'])} agreement of readers")
    return lines or nested_figures(figures)


def _reward(figures: Figures) -> list[str]:
    if "pair_accuracy" not in figures:
        return nested_figures(figures)
    return [f"{percent(figures['pair_accuracy'])} of held-out pairs put in the right order"]


def nested_figures(figures: Figures) -> list[str]:
    """The first six numbers at any depth, each by its path of names."""
    found: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f"{path} {name}".strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append(f"{path.replace('_', ' ')} {value:,.4g}")

    walk(figures, "")
    return found[:6]


def _evaluate(figures: Figures) -> list[str]:
    lines = []
    for name, share in (figures.get("accuracy") or {}).items():
        low, high = (figures.get("interval") or {}).get(name, (share, share))
        lines.append(f"{label(name)}: {percent(share)} of unseen problems ({percent(low)} to {percent(high)})")
    for earlier, later in pairwise(figures.get("accuracy") or {}):
        change = (figures.get("paired") or {}).get(f"{later}_{earlier}")
        if change:
            difference, low, high = (points(value) for value in change)
            lines.append(f"{label(later)} against {label(earlier)}: {difference} points ({low} to {high})")
    for name, by_length in (figures.get("needles") or {}).items():
        found = [f"{percent(share)} at {length}" for length, share in by_length.items()]
        if found:
            lines.append(f"{label(name)}: needles {listing(found)} tokens")
    lines += [f"{domain} expert: {percent(s)}" for domain, s in by_name(figures, "expert_accuracy").items()]
    refusal = by_name(figures, "refusal")
    if refusal:
        lines.append("wishes: " + listing(
            [f"{percent(refusal[kind])} of {kind} ones {what}" for kind, what in _WISHES.items() if kind in refusal]
        ))  # fmt: skip
    if "admits_ignorance" in figures:
        lines.append(f"admits not to know what nobody can: {percent(figures['admits_ignorance'])}")
    return lines


_REVIEW = {"unreviewed": "let through unreviewed"}
_WISHES = {"harmful": "refused", "harmless": "answered"}
_FIGURES: dict[str, Callable[[Figures], list[str]]] = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "pretrain": _pretrain,
    "extend": _extend,
    "specialise": _specialise,
    "distill": _distill,
    "review": _review,
    "finetune": _finetune,
    "reward": _reward,
    "reinforce": _reinforce,
    "evaluate": _evaluate,
}


def leaves(value: Any) -> list[float]:
    """All numbers in a figure: one, a list of them or a mapping to them, at any depth."""
    if isinstance(value, Mapping):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [float(value)] if isinstance(value, (int, float)) else []


def _total(value: Any) -> float:
    return sum(leaves(value))
