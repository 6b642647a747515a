"""Sentences on what post-training changed, from the figures alone, with their doubt: no figure, no sentence.

A change is claimed only where its 95 % interval leaves out zero; where it does not, the sentence says that no reliable
change was found, which is not the same as none. Where there is no interval, the sentence gives the figures and claims
nothing.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from sapience.evaluation.post_training import Shift, assistants, before_and_after, label, line_models, points, shift
from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.scoring import wilson_interval
from sapience.evaluation.wording import listing, percent

_Z = 1.959963984540054


def assistant_words(run: RunRecord) -> list[str]:
    """What became of the base model, in a few sentences; empty without an assistant."""
    if not assistants(run):
        return []
    sentences = [*_solving(run), *_manner(run), *_behaving(run), _forgetting(run), _rewarding(run)]
    return [sentence for sentence in sentences if sentence]


def _solving(run: RunRecord) -> list[str]:
    figures = run.figures("evaluate")
    sentences = []
    for earlier, later in pairwise(line_models(run)):
        pair = (figures.get("paired") or {}).get(f"{later}_{earlier}")
        if later not in assistants(run) or not pair:
            continue
        difference, low, high = pair
        between = f"(95 % interval {points(low)} to {points(high)} points)"
        if low > 0 or high < 0:
            much = f"{100 * abs(difference):.0f} points {'more' if difference > 0 else 'less'}"
            told = f"solves {much} of the same problems than the {label(earlier)} model"
        else:
            told = f"shows no reliable change in problems solved against the {label(earlier)} model"
            between = f"({points(difference)} points, 95 % interval {points(low)} to {points(high)})"
        families = (figures.get("paired_families") or {}).get(f"{later}_{earlier}") or {}
        sentences.append(f"The {label(later)} model {told} {between}{_families(families)}.")
    return sentences


def _families(families: Mapping[str, Mapping[str, Any]]) -> str:
    sure = {name: change["difference"] for name, change in families.items() if change.get("reliable")}
    gained = [f"{name} ({points(d)})" for name, d in sorted(sure.items(), key=lambda item: -item[1]) if d > 0]
    lost = [f"{name} ({points(d)})" for name, d in sorted(sure.items(), key=lambda item: item[1]) if d < 0]
    parts = [f"it gained in {listing(gained)}"] * bool(gained) + [f"it lost in {listing(lost)}"] * bool(lost)
    if not families:
        return ""
    rest = len(families) - len(sure)
    parts += [f"in {rest} of {len(families)} families no change is reliable"] * bool(rest)
    return ": " + "; ".join(parts)


def _manner(run: RunRecord) -> list[str]:
    answers = run.figures("evaluate").get("answers") or {}
    sentences = []
    for earlier, later in pairwise(assistants(run)):
        a, b = answers.get(earlier) or {}, answers.get(later) or {}
        sentences += [_length(a, b, earlier, later), _format(a, b, earlier, later)]
        if "consistency" in a and "consistency" in b:
            sentences.append(
                f"Asked the same problem several times with some chance, the {label(later)} model gives its most frequent "
                f"answer {percent(b['consistency'])} of the time, the {label(earlier)} one {percent(a['consistency'])}."
            )
    only = assistants(run)[0]
    if len(assistants(run)) == 1 and "format_rate" in (answers.get(only) or {}):
        share, (low, high) = answers[only]["format_rate"], answers[only]["format_interval"]
        sentences.append(
            f"The {label(only)} model answers {percent(share)} of the problems in the form it was taught "
            f"(95 % interval {percent(low)} to {percent(high)})."
        )
    return sentences


def _length(before: Mapping[str, Any], after: Mapping[str, Any], earlier: str, later: str) -> str:
    if not all({"tokens_mean", "tokens_error"} <= figures.keys() for figures in (before, after)):
        return ""
    difference = after["tokens_mean"] - before["tokens_mean"]
    told = f"{after['tokens_mean']:.1f} tokens on average, {before['tokens_mean']:.1f} before"
    if abs(difference) <= _Z * math.hypot(before["tokens_error"], after["tokens_error"]):
        return f"Its answers did not change reliably in length from the {label(earlier)} to the {label(later)} model ({told})."
    return f"The {label(later)} model's answers became {'longer' if difference > 0 else 'shorter'}: {told}."


def _format(before: Mapping[str, Any], after: Mapping[str, Any], earlier: str, later: str) -> str:
    change = shift(before, after, "format_rate", "format_interval")
    if change is None:
        return ""
    return _told("keep to the form it was taught", "answers to problems", change, earlier, later)


def _told(what: str, of: str, change: Shift, earlier: str, later: str) -> str:
    shares = f"{percent(change.after)} of {of} {what}, {percent(change.before)} with the {label(earlier)} model"
    if not change.sure:
        return f"With the {label(later)} model {shares}: no reliable change."
    return f"With the {label(later)} model {shares}: reliably {'more' if change.after > change.before else 'fewer'}."


def _behaving(run: RunRecord) -> list[str]:
    behaviour = run.figures("evaluate").get("behaviour") or {}
    kinds = {
        "refused": ("are refused", "harmful wishes"),
        "answered": ("are answered", "harmless wishes"),
        "admitted": ("are met with “I don't know”", "questions that nobody can answer"),
    }
    shown = [name for name in assistants(run) if name in behaviour]
    sentences = []
    for kind, (what, of) in kinds.items():
        if len(shown) == 1 and kind in behaviour[shown[0]]:
            share, (low, high) = behaviour[shown[0]][kind]["share"], behaviour[shown[0]][kind]["interval"]
            sentences.append(f"{percent(share)} of {of} {what} (95 % interval {percent(low)} to {percent(high)}).")
        for earlier, later in pairwise(shown):
            change = shift(behaviour[earlier].get(kind, {}), behaviour[later].get(kind, {}), "share")
            if change is not None:
                sentences.append(_told(what, of, change, earlier, later))
    if shown and {"refused", "answered"} <= behaviour[shown[-1]].keys():
        answered = behaviour[shown[-1]]["answered"]["interval"]
        if answered[1] < 0.5:
            sentences.append(
                "It leaves most harmless wishes unanswered: what it refuses it does not refuse for being harmful."
            )
    return sentences


def _forgetting(run: RunRecord) -> str:
    ends = before_and_after(run)
    bits = run.figures("evaluate").get("bits_per_byte_beginning") or {}
    if ends is None or not all(name in bits for name in ends):
        return ""
    before, after = (bits[name] for name in ends)
    lost = {domain: after[domain] - before[domain] for domain in before if domain in after}
    if not lost:
        return ""
    mean = fmean(lost.values())
    most = max(lost, key=lambda domain: abs(lost[domain]))
    domains = f"{len(lost)} domains" if len(lost) > 1 else "1 domain"
    return (
        f"On plain text the {label(ends[1])} model's bits per byte differ from the {label(ends[0])} model's by {mean:+.3f} on "
        f"average over {domains}, most in {most} ({lost[most]:+.3f}). Fewer bits are a better prediction; how much of this "
        "is chance was not measured."
    )


def _rewarding(run: RunRecord) -> str:
    rewards = [r["reward"] for r in run.lines("reinforce", "metrics.jsonl") if _number(r.get("reward"))]
    held_out = [r for r in run.lines("reinforce", "validations.jsonl") if _number(r.get("right"))]
    if len(rewards) < 2 or len(held_out) < 2:
        return ""
    tenth = max(1, len(rewards) // 10)
    first, last = fmean(rewards[:tenth]), fmean(rewards[-tenth:])
    sentence = (
        f"During reinforcement the mean reward went from {first:.2f} to {last:.2f}, the share of held-out problems solved "
        f"from {percent(held_out[0]['right'])} to {percent(held_out[-1]['right'])}"
    )
    if _surely_above(rewards[-tenth:], rewards[:tenth]) and _surely_fell(held_out[0], held_out[-1]):
        return sentence + ": a reward that rises while the held-out score falls is a reward that is being outwitted."
    return sentence + "."


def _surely_above(later: Sequence[float], earlier: Sequence[float]) -> bool:
    """Whether the 95 % interval of the difference of two means lies above zero; False of fewer than two values each."""
    if min(len(later), len(earlier)) < 2:
        return False
    error = math.hypot(*(stdev(values) / math.sqrt(len(values)) for values in (later, earlier)))
    return fmean(later) - fmean(earlier) > _Z * error


def _surely_fell(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the share of held-out problems solved fell, by the 95 % interval of the difference."""
    counts = [record.get("problems") for record in (before, after)]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        return False
    start, end = (
        {**record, "interval": wilson_interval(round(record["right"] * record["problems"]), record["problems"])}
        for record in (before, after)
    )
    change = shift(start, end, "right")
    return change is not None and change.sure and change.after < change.before


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
