"""The report's sections on how the assistant was made: experts, distillation, review and reward model; reinforcement."""

from collections.abc import Mapping
from typing import Any

from sapience.evaluation.bar_chart import Bar, bar_chart
from sapience.evaluation.drawing import COLOURS
from sapience.evaluation.line_chart import Series, line_chart, thinned
from sapience.evaluation.page import PageSection, Passage, Picture, Quote, Table
from sapience.evaluation.post_training import by_name, label, with_interval
from sapience.evaluation.report_assistant import clipped
from sapience.evaluation.rollout_record import RolloutGroup, telling_groups
from sapience.evaluation.run_record import RunRecord, read_lines
from sapience.evaluation.wording import amount, listing, percent
from sapience.recipe import Recipe

_GROUPS_PER_MOMENT = 2
_KINDS = {"original": "original: question and plain answer", "reasoned": "reasoned: with the expert's own steps"}
_REVIEW = {"waiting": "waiting", "accepted": "accepted", "edited": "edited", "rejected": "rejected"}
Point = tuple[float, float]


def teachers_section(run: RunRecord, recipe: Recipe) -> PageSection | None:
    """Experts on their own domain, what was distilled from them, what people said of it, how well preferences are
    predicted."""
    pictures = [
        picture
        for picture in (_experts(run), _expert_curves(run, recipe), _reward_model(run.figures("reward")))
        if picture is not None
    ]
    found = _by_family(run.figures("evaluate")), _distilled(run.figures("distill")), _reviewed(run.figures("review"))
    tables = [table for table in found if table]
    sentences = _told(run)
    if not (pictures or tables or sentences):
        return None
    return PageSection(
        "teachers",
        "Where its answers come from: experts, distillation, people",
        "An expert is the base model trained on one domain alone. Experts answer training problems, only right answers are "
        "kept and taught to one model that is to know all domains. Everyday answers wait for people, unless the recipe lets "
        "some pass. Pairs of a better and a worse answer teach a reward model what to prefer where no rule can tell.",
        sentences,
        pictures,
        tables,
    )


def reinforcement_section(run: RunRecord, recipe: Recipe) -> PageSection | None:
    """Curves of reinforcement, held-out score beside the reward, and some drawn answers."""
    steps = run.lines("reinforce", "metrics.jsonl")
    held_out = run.lines("reinforce", "validations.jsonl")
    limit = recipe.report.curve_points
    drawn = [
        _chart(
            "Reward against held-out score",
            "The reward is what training sees; the held-out score is what it is for. Both should rise together.",
            [
                Series("reward", _points(steps, "reward", limit), 0),
                Series("solved in training", _points(steps, "right", limit), 1),
                Series("solved, held out", _points(held_out, "right", limit), 2),
                Series("reward, held out", _points(held_out, "reward", limit), 3),
            ],
            "share",
        ),
        _chart(
            "Drawn answers",
            "Groups in which one answer is better than another are all there is to learn from.",
            [
                Series("came to an end", _points(steps, "finished", limit), 2),
                Series("groups with something to learn", _points(steps, "groups_with_spread", limit), 3),
            ],
            "share",
        ),
        *(
            _chart(title, caption, [Series(axis, _points(steps, key, limit), colour)], axis)
            for title, caption, key, axis, colour in (
                ("Length of answers", "Mean over the drawn answers.", "answer_tokens", "tokens", 4),
                ("Distance from the start", "KL divergence from the fine-tuned model.", "kl", "nats per token", 5),
                (
                    "Sampler against trainer",
                    "How far the two disagree on a token's log-probability: 0 means the same model.",
                    "mismatch_mean",
                    "nats",
                    6,
                ),
                ("Gradient", "Norm before clipping.", "gradient_norm", "norm", 7),
                ("Busiest expert", "Above its even share; 1 is twice the share.", "max_violation", "MaxVio", 5),
                ("Prediction module", "Its loss on the drawn answers.", "mtp_loss", "nats per token", 1),
            )
        ),
    ]
    pictures = [picture for picture in drawn if picture is not None]
    quotes = _rollouts(run, steps)
    if not (pictures or quotes):
        return None
    return PageSection(
        "reinforcement",
        "Learning from its own answers: reinforcement",
        "The model draws several answers to a prompt. Rules say which are right, a reward model which are better where no "
        "rule can tell; answers that are better than their group become likelier, the others less likely (GRPO). A reward "
        "can be outwitted, so problems that training never sees are solved along the way.",
        pictures=pictures,
        quotes=quotes,
    )


def _chart(title: str, caption: str, series: list[Series], axis: str) -> Picture | None:
    svg = line_chart(series, "iteration", axis, f"{title} over reinforcement", height=220, from_zero=True)
    return Picture(svg, caption, title) if svg else None


def _points(records: list[dict[str, Any]], key: str, limit: int) -> list[Point]:
    found = [(r["step"], r[key]) for r in records if "step" in r and isinstance(r.get(key), (int, float))]
    return thinned(found, limit)


def _rollouts(run: RunRecord, steps: list[dict[str, Any]]) -> list[Quote]:
    """The best and the worst answer of some groups at the beginning, in the middle and at the end."""
    made = sorted({int(r["step"]) for r in steps if isinstance(r.get("step"), int)})
    if not made:
        return []
    moments = {made[0], made[len(made) // 2], made[-1]}
    groups = telling_groups(run.folder / "reinforce" / "rollouts.jsonl", moments, _GROUPS_PER_MOMENT)
    return [_quote(group) for group in groups]


def _quote(group: RolloutGroup) -> Quote:
    expected = f", right is {clipped(group.expected)}" if group.expected and "\n" not in group.expected else ""
    return Quote(
        f"Iteration {group.step}, {group.category}: “{clipped(group.prompt)}”{expected}",
        [
            Passage(_worth(name, record), "", clipped(record.get("text", "")))
            for name, record in ((f"best of {group.size}", group.best), ("worst", group.worst))
        ],
    )


def _worth(name: str, record: Mapping[str, Any]) -> str:
    verdict = str(record.get("verdict") or "")
    told = f"{name}: reward {record['reward']:.2f}"
    sources = by_name(record, "sources")
    if len(sources) > 1:
        told += f" ({', '.join(f'{source} {value:.2f}' for source, value in sources.items())})"
    return told + (f", {verdict.replace('_', ' ')}" if verdict else "")


def _experts(run: RunRecord) -> Picture | None:
    figures = run.figures("evaluate")
    experts = by_name(figures, "expert_accuracy")
    if not experts:
        return None
    others = figures.get("domain_accuracy") or {}
    names = [*(label(name) for name in others), "expert"]
    rows = []
    for domain, accuracy in experts.items():
        bars = []
        for place, (name, by_domain) in enumerate(others.items()):
            if domain in by_domain:
                interval = ((figures.get("domain_interval") or {}).get(name) or {}).get(domain)
                bars.append(Bar(place, by_domain[domain], _interval(interval)))
        bars.append(Bar(len(others), accuracy, _interval((figures.get("expert_interval") or {}).get(domain))))
        rows.append((domain, bars))
    svg = bar_chart(rows, names, percent, "Experts on the problems of their own domain", highest=1.0)
    return Picture(
        svg, "The same held-out problems for all; the thin line is the 95 % interval.", "Experts in their domain"
    )


def _by_family(figures: Mapping[str, Any]) -> Table | None:
    """Experts and the other models by generated family and problem file."""
    families, others = figures.get("families") or {}, list(figures.get("domain_accuracy") or {})
    rows = []
    for domain, found in (figures.get("expert_families") or {}).items():
        for family, score in found.items():
            scores = [*((families.get(name) or {}).get(family) for name in others), score]
            cells = [with_interval(s["accuracy"], s["interval"]) if s else "–" for s in scores]
            rows.append([f"{domain}: {family}", *cells, amount(score["problems"])])
    head = ["experts, by family and file", *(label(name) for name in others), "expert", "problems"]
    return Table(head, rows) if rows else None


def _interval(value: Any) -> tuple[float, float] | None:
    return (float(value[0]), float(value[1])) if value else None


def _expert_curves(run: RunRecord, recipe: Recipe) -> Picture | None:
    """Share of right answers while each expert learned from its own."""
    series = []
    for place, path in enumerate(sorted((run.folder / "specialise").glob("*/metrics.jsonl"))):
        points = _points([r for r in read_lines(path) if "reward" in r], "right", recipe.report.curve_points)
        series.append(Series(path.parent.name, points, place % COLOURS))
    svg = line_chart(series, "iteration", "share right", "Experts learning from their own answers", from_zero=True)
    return (
        Picture(svg, "Share of drawn answers that were right, by domain.", "Experts while they learn") if svg else None
    )


def _reward_model(figures: Mapping[str, Any]) -> Picture | None:
    by_category = next(
        (found for key in ("pair_accuracy_by_category", "by_category") if (found := figures.get(key))), None
    )
    if not isinstance(by_category, Mapping):
        return None
    rows = []
    for category, value in by_category.items():
        if isinstance(value, (int, float)):
            rows.append((str(category), [Bar(0, float(value))]))
        elif isinstance(value, Mapping) and isinstance(value.get("accuracy"), (int, float)):
            rows.append((str(category), [Bar(0, float(value["accuracy"]), _interval(value.get("interval")))]))
    if not rows:
        return None
    svg = bar_chart(rows, ["right"], percent, "Pairs that the reward model ranks right, by category", highest=1.0)
    return Picture(svg, "Held-out pairs in which it puts the better answer first; chance is 50 %.", "Reward model")


def _distilled(figures: Mapping[str, Any]) -> Table | None:
    columns = {
        "accepted": ("kept", by_name(figures, "accepted"), amount),
        "right_share": ("right before sorting", by_name(figures, "right_share"), percent),
        "length": ("tokens per answer", by_name(figures, "length"), lambda value: f"{value:.1f}"),
    }
    present = {key: column for key, column in columns.items() if column[1]}
    kinds = list(dict.fromkeys(kind for _, values, _ in present.values() for kind in values))
    if not kinds:
        return None
    rows = [
        [
            _KINDS.get(kind, kind),
            *(written(values[kind]) if kind in values else "–" for _, values, written in present.values()),
        ]
        for kind in kinds
    ]
    return Table(["distilled answers", *(name for name, _, _ in present.values())], rows)


def _reviewed(figures: Mapping[str, Any]) -> Table | None:
    present = {key: figures[key] for key in _REVIEW if isinstance(figures.get(key), (int, float))}
    if not present:
        return None
    row = ["everyday answers", *(amount(value) for value in present.values())]
    head = ["read by people", *(_REVIEW[key] for key in present)]
    if isinstance(figures.get("agreement"), (int, float)):
        head.append("agreement of readers")
        row.append(percent(figures["agreement"]))
    return Table(head, [row])


def _told(run: RunRecord) -> list[str]:
    sentences = []
    if untested := run.figures("evaluate").get("untested"):
        sentences.append(
            f"Without a test part, and so not measured: {listing(untested)}, which experts were raised on."
        )
    accepted = run.figures("distill").get("accepted")
    if isinstance(accepted, (int, float)):
        sentences.append(f"{amount(accepted)} distilled answers were right, and kept.")
    pairs = run.figures("reward").get("pair_accuracy")
    if isinstance(pairs, (int, float)):
        told = with_interval(pairs, run.figures("reward").get("pair_interval"))
        sentences.append(
            f"The reward model puts the better answer first in {told} of the held-out pairs; chance is 50 %."
        )
    return sentences
