"""The report's sections on training: curves, compression by domain, experts, multi-token prediction."""

from itertools import pairwise
from typing import Any

from sapience.evaluation.bar_chart import Bar, bar_chart
from sapience.evaluation.heat_map import load_map
from sapience.evaluation.journey_table import drafts
from sapience.evaluation.line_chart import Series, line_chart, thinned
from sapience.evaluation.page import PageSection, Passage, Picture, Quote, Table
from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.wording import percent
from sapience.recipe import Recipe

_LAYERS_SHOWN = 8
_MOMENTS_SHOWN = 48
_NAMES = {"pretrain": "Pre-training", "extend": "Context extension", "finetune": "Fine-tuning"}


def learning_section(run: RunRecord, recipe: Recipe) -> PageSection | None:
    """Loss and MTP loss, learning rate, batch and speed, for each stage that trained."""
    pictures = [
        picture
        for stage, name in _NAMES.items()
        for picture in _stage_curves(run.lines(stage, "metrics.jsonl"), name, recipe.report.curve_points)
        if picture.svg
    ]
    if not pictures:
        return None
    return PageSection(
        "learning",
        "Learning to predict the next token",
        "Training shows the model text and asks, at every place, for the token that comes next. The loss "
        "says how surprised it was by the right one. All a base model knows comes from making this number "
        "smaller.",
        pictures=pictures,
    )


def _stage_curves(steps: list[dict[str, Any]], name: str, limit: int) -> list[Picture]:
    """The curves of one stage; a picture without a record has an empty SVG."""

    def curve(key: str) -> list[tuple[float, float]]:
        return thinned(
            [(r["step"], r[key]) for r in steps if "step" in r and isinstance(r.get(key), (int, float))],
            limit,
        )

    def drawn(key: str, axis: str, colour: int) -> str:
        return line_chart([Series(axis, curve(key), colour)], "step", axis, f"{name}: {axis}", from_zero=True)

    losses = [Series("next token", curve("loss"), 0), Series("token after next (MTP)", curve("mtp_loss"), 1)]
    loss = line_chart(losses, "step", "loss, nats per token", f"{name}: loss over the steps")
    batches = [
        (later["step"], (later["tokens"] - earlier["tokens"]) / (later["step"] - earlier["step"]))
        for earlier, later in pairwise(r for r in steps if "tokens" in r and "step" in r)
        if later.get("phase") == earlier.get("phase")  # a phase counts its tokens from zero
        if later["step"] > earlier["step"]
    ]
    batch = line_chart(
        [Series("tokens", thinned(batches, limit), 3)],
        "step",
        "tokens per step",
        f"{name}: batch",
        from_zero=True,
    )
    return [
        Picture(loss, "Surprise at the next token: lower is better, 0 would be certainty.", f"{name}: loss"),
        Picture(
            drawn("learning_rate", "learning rate", 2),
            "How far a step moves the weights.",
            f"{name}: learning rate",
        ),
        Picture(batch, "How much text a step reads.", f"{name}: batch"),
        Picture(
            drawn("tokens_per_second", "tokens per second", 4),
            "How fast this machine trained.",
            f"{name}: speed",
        ),
    ]


def compression_section(run: RunRecord) -> PageSection | None:
    """Bits per byte by domain over training with lzma's line, and the figures of all models in a table."""
    moments = [r for r in run.lines("pretrain", "evaluations.jsonl") if isinstance(r.get("bits_per_byte"), dict)]
    xz = {
        **(run.figures("evaluate").get("xz_bits_per_byte") or {}),
        **(run.figures("pretrain").get("xz_bits_per_byte") or {}),
    }
    pictures = []
    for domain in dict.fromkeys(domain for r in moments for domain in r["bits_per_byte"]):
        points = [(r["step"], r["bits_per_byte"][domain]) for r in moments if domain in r["bits_per_byte"]]
        series = [Series("model", points, 0)]
        if domain in xz:
            ends = [(points[0][0], xz[domain]), (points[-1][0], xz[domain])]
            series.append(Series("lzma", ends if len(points) > 1 else [(0, xz[domain]), ends[1]], 1, dashed=True))
        svg = line_chart(series, "step", "bits per byte", f"Bits per byte of {domain} over training", height=210)
        pictures.append(Picture(svg, "", domain))
    models = {"end of pre-training": run.figures("pretrain").get("bits_per_byte") or {}}
    models |= run.figures("evaluate").get("bits_per_byte") or {}
    models = {name: values for name, values in models.items() if values}
    domains = list(dict.fromkeys([*(d for values in models.values() for d in values), *xz]))
    if not domains and not pictures:
        return None
    rows = [
        [domain, *(_bits(values.get(domain)) for values in models.values()), _bits(xz.get(domain))]
        for domain in domains
    ]
    return PageSection(
        "compression",
        "How well it knows each language: bits per byte",
        "A good predictor is a good compressor. Bits per byte is the space the model would need for text "
        "it has never seen. The dashed line is lzma, a strong general compressor, on the same bytes: below "
        "it, the model knows more about the language than repetition can tell. A point inside the curve is "
        "measured on a smaller sample than the last one.",
        pictures=pictures,
        tables=[Table(["domain", *models, "lzma"], rows)] if rows else [],
    )


def experts_section(run: RunRecord, recipe: Recipe) -> PageSection | None:
    """Expert load of each layer over pre-training."""
    records = [r for r in run.lines("pretrain", "loads.jsonl") if r.get("loads")]
    if not records:
        return None
    layers = len(records[-1]["loads"])
    records = [r for r in records if len(r["loads"]) == layers]
    shown = sorted(
        {round(i * (layers - 1) / max(1, min(layers, _LAYERS_SHOWN) - 1)) for i in range(min(layers, _LAYERS_SHOWN))}
    )
    violation = run.figures("pretrain").get("max_violation_by_layer")
    pictures = []
    for layer in shown:
        moments = _merged(records, layer)
        name = _layer_name(layer, layers, recipe)
        svg = load_map([step for step, _ in moments], [loads for _, loads in moments], f"Load of the experts, {name}")
        busiest = ""
        if isinstance(violation, list) and len(violation) == layers:
            busiest = f"Towards the end the busiest expert had {percent(violation[layer])} above its even share."
        pictures.append(Picture(svg, busiest, name))
    worst = [(r["step"], r["max_violation"]) for r in run.lines("pretrain", "metrics.jsonl") if "max_violation" in r]
    if worst:
        series = [Series("MaxVio", thinned(worst, recipe.report.curve_points), 5)]
        svg = line_chart(series, "step", "MaxVio", "Load of the busiest expert over training", from_zero=True)
        caption = "The busiest expert of any layer above its even share, step by step: 1 is twice the share."
        pictures.append(Picture(svg, caption, "Busiest expert"))
    told = f" {len(shown)} of {layers} layers are shown." if len(shown) < layers else ""
    return PageSection(
        "experts",
        "Who does the work: load of the experts",
        "In these layers every token is sent to a few of many experts. Without care some experts would get "
        "all the tokens and the others would learn nothing. Each row is an expert, time runs to the right; "
        "warm colours are too much work, cold ones too little, no colour is an even share. The balancing "
        "rule should make the picture fade." + told,
        pictures=pictures,
    )


def drafts_section(run: RunRecord) -> PageSection | None:
    """MTP drafts against bigram drafts by domain, and acceptance over training."""
    pictures = []
    for name, mtp in drafts(run.figures("evaluate"), run.figures("pretrain")).items():
        domains = mtp.get("domains") or {}
        if not domains:
            continue
        everything = {**domains, "all": mtp["overall"]} if mtp.get("overall") else domains
        keys = {
            "accepted": "accepted",
            "accepted_true": "accepted and true",
            "bigram_accepted_true": "bigram, accepted and true",
        }
        present = [key for key in keys if all(key in shares for shares in everything.values())]
        rows = [(d, [Bar(i, shares[key]) for i, key in enumerate(present)]) for d, shares in everything.items()]
        svg = bar_chart(rows, [keys[key] for key in present], percent, f"Drafts of the {name} model by domain")
        pictures.append(Picture(svg, "Shares of all places in held-out text.", f"{name} model"))
    moments = [
        (r["step"], r["mtp_acceptance"])
        for r in run.lines("pretrain", "evaluations.jsonl")
        if isinstance(r.get("mtp_acceptance"), (int, float))
    ]
    if moments:
        svg = line_chart(
            [Series("accepted", moments, 0)],
            "step",
            "share accepted",
            "Accepted drafts over training",
            from_zero=True,
        )
        pictures.append(Picture(svg, "Over pre-training.", "Accepted drafts"))
    if not pictures:
        return None
    return PageSection(
        "drafts",
        "Thinking one token ahead: multi-token prediction",
        "A second small head guesses the token after next. When serving, its guesses are drafts: those the "
        "model would have said itself are accepted and save a step. A draft that is accepted and true is "
        "what the text really says. The bigram draft, simply the most frequent successor, shows how much "
        "of that is easy.",
        pictures=pictures,
    )


def samples_section(run: RunRecord, recipe: Recipe) -> PageSection | None:
    """What the model wrote at some moments of training."""
    samples = [r for r in run.lines("pretrain", "samples.jsonl") if "text" in r]
    steps = sorted({r.get("step", 0) for r in samples})
    if not steps:
        return None
    wanted = min(len(steps), recipe.report.sample_moments)
    chosen = {steps[round(i * (len(steps) - 1) / max(1, wanted - 1))] for i in range(wanted)}
    passages: dict[str, list[Passage]] = {}
    for record in samples:
        step, prompt = record.get("step", 0), str(record.get("prompt", ""))
        if step in chosen:
            passages.setdefault(prompt, []).append(Passage(f"after {step:,} steps", prompt, str(record["text"])))
    quotes = [Quote(f"“{prompt.strip()}” …", list(said)) for prompt, said in passages.items()]
    return PageSection(
        "samples",
        "In its own words",
        "The same beginnings, continued by the model at several moments of training. What is marked is the "
        "beginning it was given. First come letters, then words, then phrases and the shape of code.",
        quotes=quotes,
    )


def _bits(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"


def _layer_name(layer: int, layers: int, recipe: Recipe) -> str:
    predictions = recipe.model.num_nextn_predict_layers
    if layer >= layers - predictions:
        return "prediction module" if predictions == 1 else f"prediction module {layer - layers + predictions + 1}"
    return f"layer {layer + recipe.model.first_k_dense_replace + 1}"


def _merged(records: list[dict[str, Any]], layer: int) -> list[tuple[float, list[float]]]:
    """Loads of one layer at a limited number of moments, neighbours added up."""
    moments: list[tuple[float, list[float]]] = []
    share = -(-len(records) // _MOMENTS_SHOWN)
    for start in range(0, len(records), share):
        group = records[start : start + share]
        summed = [float(sum(loads)) for loads in zip(*(r["loads"][layer] for r in group), strict=True)]
        moments.append((float(group[-1].get("step", start)), summed))
    return moments
