"""Sentences that say what the stages gave, made from the figures alone: no figure, no sentence."""

import math

from sapience.evaluation.journey_table import compression, drafts, leaves
from sapience.evaluation.post_training import label
from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.wording import amount, duration, listing, percent

_LARGEST_LOSS = 30.0
"""In nats; the exponential of more is beyond any vocabulary, and in the end beyond any number."""


def plain_words(run: RunRecord) -> list[str]:
    """The run in a few sentences for someone who has never trained a model."""
    sentences = [
        _reading(run),
        _compressing(run),
        _drafting(run),
        _balancing(run),
        _remembering(run),
        _solving(run),
    ]
    return [sentence for sentence in sentences if sentence]


def _reading(run: RunRecord) -> str:
    steps = [r for r in run.lines("pretrain", "metrics.jsonl") if isinstance(r.get("loss"), (int, float))]
    if len(steps) < 2:
        return ""
    first, last = steps[0]["loss"], sum(r["loss"] for r in steps[-10:]) / len(steps[-10:])
    read = f"{amount(steps[-1]['tokens'])} tokens" if "tokens" in steps[-1] else f"{amount(steps[-1]['step'])} steps"
    took = f" in {duration(run.manifests['pretrain'].seconds)}" if "pretrain" in run.manifests else ""
    if not (first <= _LARGEST_LOSS and last <= _LARGEST_LOSS):
        return f"The model read {read}{took}; its loss went from {first:.2f} to {last:.2f} nats."
    return (
        f"The model read {read}{took}. At the start it was as unsure about the next token as if "
        f"{amount(math.exp(first))} were equally likely; at the end as if about {math.exp(last):.1f} were "
        f"(a loss of {first:.2f} and {last:.2f} nats)."
    )


def _compressing(run: RunRecord) -> str:
    figures = run.figures("pretrain")
    if not (figures.get("bits_per_byte") and figures.get("xz_bits_per_byte")):
        return ""
    better, worse = compression(figures)
    models, xz = figures["bits_per_byte"], figures["xz_bits_per_byte"]

    def told(domains: list[str]) -> str:
        return listing(
            [f"{domain} ({models[domain]:.2f} bits per byte against {xz[domain]:.2f})" for domain in domains]
        )

    if not better:
        return f"It predicts text it never saw worse than the compressor lzma packs it: {told(worse)}."
    sentence = f"It predicts text it never saw better than the compressor lzma packs it in {told(better)}"
    return f"{sentence}; not yet in {told(worse)}." if worse else f"{sentence}: in every domain."


def _drafting(run: RunRecord) -> str:
    for name, mtp in drafts(run.figures("evaluate"), run.figures("pretrain")).items():
        shares = mtp.get("overall") or {}
        if "accepted_true" not in shares:
            continue
        beside = ""
        if "bigram_accepted_true" in shares:
            bigram = percent(shares["bigram_accepted_true"])
            beside = f", where the most frequent successor in the training text does so in {bigram}"
        return (
            f"The second head of the {name} model guesses the token after next: in "
            f"{percent(shares['accepted'])} of all places it names what the model then says itself, in "
            f"{percent(shares['accepted_true'])} also what the text really says{beside}."
        )
    return ""


def _balancing(run: RunRecord) -> str:
    violations = leaves(run.figures("pretrain").get("max_violation"))
    if not violations:
        return ""
    return (
        f"Work was spread over the experts: towards the end the busiest one had {percent(max(violations))} "
        "more than its even share."
    )


def _remembering(run: RunRecord) -> str:
    figures = run.figures("extend")
    if "needle_before" not in figures or "needle_after" not in figures:
        return ""
    factor = figures.get("needle_factor")
    longer = f"of {factor} times the length" if factor else "longer than what"
    return (
        f"Asked for a code hidden in a text {longer} it was trained on, the base model "
        f"found {percent(figures['needle_before'])}; after the context was extended, "
        f"{percent(figures['needle_after'])}."
    )


def _solving(run: RunRecord) -> str:
    figures = run.figures("evaluate")
    parts = []
    for name, share in (figures.get("accuracy") or {}).items():
        low, high = (figures.get("interval") or {}).get(name, (share, share))
        parts.append(
            f"the {label(name)} model solves {percent(share)} (95 % interval {percent(low)} to {percent(high)})"
        )
    if not parts:
        return ""
    return f"Of {amount(figures.get('problems', 0))} problems that no training text contains, {listing(parts)}."
