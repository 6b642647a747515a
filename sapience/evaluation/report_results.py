"""The report's sections on results and origin: the journey's table, provenance, needles, problem families,
time."""

from collections.abc import Mapping, Sequence
from typing import Any

from sapience.evaluation.bar_chart import Bar, bar_chart
from sapience.evaluation.heat_map import share_map
from sapience.evaluation.journey_table import JourneyRow
from sapience.evaluation.page import PageSection, Passage, Picture, Quote, Table
from sapience.evaluation.plain_words import plain_words
from sapience.evaluation.post_training import assistants
from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.wording import amount, duration, listing, percent, size

_SAMPLES_SHOWN = 6


def words_section(run: RunRecord) -> PageSection | None:
    """What the run gave, in sentences."""
    sentences = plain_words(run)
    if not sentences:
        return None
    return PageSection("words", "In plain words", "What this run gave, said with its own figures.", sentences=sentences)


def journey_section(run: RunRecord, journey: Sequence[JourneyRow]) -> PageSection:
    """What each stage made and changed, its time and notes, and where the time went."""
    rows = [[row.stage, row.made, row.took, row.figures] for row in journey]
    notes = [f"{name}: {note}" for name, manifest in run.manifests.items() for note in manifest.notes]
    seconds = [(name, manifest.seconds) for name, manifest in run.manifests.items()]
    pictures = []
    if seconds:
        svg = bar_chart(
            [(name, [Bar(0, value)]) for name, value in seconds], ["seconds"], duration, "Time of each stage"
        )
        total = sum(value for _, value in seconds)
        pictures.append(Picture(svg, f"Together {duration(total)}.", "Time of each stage"))
    lead = (
        "A language model is raised in stages. Each takes what the one before it made, and leaves a folder "
        "with all it made and measured."
    )
    if not rows:
        lead = "No stage of this run is finished yet."
    tables = [Table(["stage", "what it made", "time", "what it changed"], rows, wordy=True)] if rows else []
    return PageSection("journey", "The journey: what each stage changed", lead, notes, pictures, tables)


def corpus_section(run: RunRecord) -> PageSection | None:
    """Where the text came from, what was missing, under which licences; what the tokenizer makes of each
    language."""
    provenance = run.document("corpus", "provenance.json")
    tables, sentences, pictures = [], [], []
    sources = _records(provenance.get("sources") if isinstance(provenance, dict) else provenance)
    if sources:
        tables.append(_source_table(sources))
        absent = [str(s.get("name", "")) for s in sources if _absent(s)]
        if absent:
            sentences.append(f"Not available on this machine, and left out: {listing(absent)}.")
    per_token = _flat(run.figures("tokenizer").get("bytes_per_token"))
    if per_token:
        rows = [(name, [Bar(0, value)]) for name, value in sorted(per_token.items(), key=lambda item: -item[1])]
        svg = bar_chart(rows, ["bytes per token"], lambda value: f"{value:.2f}", "Bytes per token")
        pictures.append(
            Picture(
                svg,
                "How much text one token stands for. More means that a text is shorter for the model.",
                "Bytes per token",
            )
        )
    if not (tables or pictures):
        return None
    lead = (
        "A model knows what it read and nothing else. This is the text it was given, with its licences; a "
        "part of each domain was held out to test the model on. The tokenizer then cuts text into frequent "
        "pieces, the tokens."
    )
    return PageSection("corpus", "What the model read", lead, sentences, pictures, tables)


def needles_section(run: RunRecord) -> PageSection | None:
    """Needle maps around each extension phase and of the evaluated models."""
    pictures = []
    cells = [c for c in run.lines("extend", "needles.jsonl") if {"moment", "length", "depth", "accuracy"} <= c.keys()]
    names = {"before": "Before extension", "untrained": "YaRN switched on, not yet trained"}
    for moment in dict.fromkeys(c["moment"] for c in cells):
        svg = _needle_picture([c for c in cells if c["moment"] == moment], str(moment))
        pictures.append(Picture(svg, "", names.get(moment, f"After {moment}")))
    results = run.document("evaluate", "results.json") or {}
    for name, found in (results.get("needle_cells") or {}).items():
        if found:
            pictures.append(Picture(_needle_picture(found, name), "", f"Evaluation: {name} model"))
    if not pictures:
        return None
    return PageSection(
        "needles",
        "A needle in a haystack: how far it can look back",
        "A code is hidden in real text, and at the end the model is asked for it. Columns are the length "
        "of the text in tokens, rows say where the code was hidden: 0 % at the beginning, 100 % right "
        "before the question. A cell is the share of codes found, all digits right.",
        pictures=pictures,
    )


def families_section(run: RunRecord) -> PageSection | None:
    """Few-shot results by family with intervals, and some answers as they were given; where there are assistants,
    their section shows base models too."""
    if assistants(run):
        return None
    families = {name: found for name, found in (run.figures("evaluate").get("families") or {}).items() if found}
    if not families:
        return None
    models = list(families)
    rows = []
    for family in dict.fromkeys(family for found in families.values() for family in found):
        bars = [
            Bar(place, found[family]["accuracy"], tuple(found[family]["interval"]))
            for place, found in enumerate(families.values())
            if family in found
        ]
        rows.append((family, bars))
    svg = bar_chart(rows, models, percent, "Right answers by problem family", highest=1.0)
    pictures = [Picture(svg, "Share of right answers; the thin line is the 95 % interval.", "By family")]
    intervals = run.figures("evaluate").get("interval") or {}
    overall = [
        [
            name,
            percent(share),
            " to ".join(percent(bound) for bound in intervals.get(name, ())) or "–",
            str(sum(score["problems"] for score in families.get(name, {}).values())),
        ]
        for name, share in (run.figures("evaluate").get("accuracy") or {}).items()
    ]
    return PageSection(
        "families",
        "Can it solve problems? A few examples, then a new one",
        "The model sees some solved problems and has to answer one more that no training text contains. A "
        "base model was never taught to answer; what it can do here is what post-training will sharpen.",
        pictures=pictures,
        tables=[Table(["model", "right", "95 % interval", "problems"], overall)],
        quotes=first_answers(run, models[-1]),
    )


def first_answers(run: RunRecord, model: str) -> list[Quote]:
    """The first problem of some families with the model's answer."""
    records = [r for r in run.lines("evaluate", f"samples-{model}.jsonl") if r.get("kind") == "problem"]
    first = {str(r.get("family")): r for r in reversed(records)}
    return [
        Quote(
            f"{family}, {'right' if record.get('correct') else 'wrong'}: the answer is "
            f"{str(record.get('answer', '')).strip()}",
            [Passage("", _last_question(str(record.get("prompt", ""))), str(record.get("produced", "")))],
        )
        for family, record in sorted(first.items())[:_SAMPLES_SHOWN]
    ]


def _last_question(prompt: str) -> str:
    """The question without the solved examples before it; an assistant's answer begins on a line of its own."""
    question = prompt.rsplit("\n\n", 1)[-1]
    return question if question.endswith("Answer:") else question + "\n"


def _needle_picture(cells: list[dict[str, Any]], name: str) -> str:
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    found = {(cell["depth"], cell["length"]): float(cell["accuracy"]) for cell in cells}
    shares = [[found.get((depth, length)) for length in lengths] for depth in depths]
    rows, columns = [percent(depth) for depth in depths], [f"{length:,}" for length in lengths]
    return share_map(rows, columns, shares, "depth", "length in tokens", f"Needles found, {name}")


def _records(value: Any) -> list[dict[str, Any]]:
    """A list of records, or a mapping of names to records, as a list of records with a name."""
    if isinstance(value, Mapping):
        return [{"name": name, **record} for name, record in value.items() if isinstance(record, Mapping)]
    return [dict(record) for record in value if isinstance(record, Mapping)] if isinstance(value, list) else []


def _absent(source: Mapping[str, Any]) -> bool:
    return bool(source.get("missing")) or source.get("documents") == 0


def _source_table(sources: list[dict[str, Any]]) -> Table:
    columns = ["name", "domain", "license", "documents", "bytes"]
    present = [column for column in columns if any(source.get(column) not in (None, "", []) for source in sources)]
    return Table(
        [{"name": "source", "license": "licence", "bytes": "size"}.get(column, column) for column in present],
        [[_cell(column, source.get(column)) for column in present] for source in sources],
        wordy=True,
    )


def _cell(column: str, value: Any) -> str:
    if isinstance(value, (int, float)):
        return size(value) if column == "bytes" else amount(value)
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "–" if value is None else str(value)


def _flat(value: Any) -> dict[str, float]:
    """Numbers by name; of nested mappings the innermost names count."""
    if not isinstance(value, Mapping):
        return {}
    flat: dict[str, float] = {}
    for name, inner in value.items():
        flat |= _flat(inner) if isinstance(inner, Mapping) else {str(name): float(inner)}
    return flat
