"""The report's sections on the assistant: problems solved along the journey, behaviour, the same prompts side by side."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sapience.evaluation.assistant_words import assistant_words
from sapience.evaluation.bar_chart import Bar, bar_chart
from sapience.evaluation.page import PageSection, Passage, Picture, Quote, Table
from sapience.evaluation.post_training import assistants, judges, label, line_models, points, with_interval
from sapience.evaluation.report_results import first_answers
from sapience.evaluation.run_record import RunRecord
from sapience.evaluation.wording import listing, percent

_LONGEST_ANSWER = 300
"""Letters of an answer that are shown; what goes on and on is cut."""
_BEHAVIOUR = {
    "refused": "harmful: refused",
    "answered": "harmless: answered",
    "admitted": "unanswerable: admitted",
    "in_language": "in the language asked",
}
_WISHES = {"harmful": "A harmful wish", "harmless": "A harmless wish", "unanswerable": "A question nobody can answer"}


def changed_section(run: RunRecord) -> PageSection | None:
    """What post-training changed, in sentences."""
    sentences = assistant_words(run)
    if not sentences:
        return None
    return PageSection(
        "changed",
        "What post-training changed: in plain words",
        "A change is claimed only where its 95 % interval leaves out zero; of a family, where chance would split gains and "
        "losses so unevenly in less than one case of twenty, which with twenty families happens to one without cause. “No "
        "reliable change” does not mean none: with this many questions it cannot be told from chance. All of it is of one "
        "training run; another seed may differ.",
        sentences=sentences,
    )


def assistant_section(run: RunRecord) -> PageSection | None:
    """The same problems for every model of the journey, by family, and how assistants answer."""
    figures = run.figures("evaluate")
    families = {name: found for name, found in (figures.get("families") or {}).items() if found}
    models = [name for name in line_models(run) if name in families]
    if not assistants(run) or not models:
        return None
    order = list(dict.fromkeys(family for name in models for family in families[name]))
    rows = [
        (family, [
            Bar(place, families[name][family]["accuracy"], tuple(families[name][family]["interval"]))
            for place, name in enumerate(models)
            if family in families[name]
        ])
        for family in order
    ]  # fmt: skip
    svg = bar_chart(rows, [label(name) for name in models], percent, "Problems solved by family", highest=1.0)
    caption = "Share of held-out problems solved; the thin line is the 95 % interval."
    return PageSection(
        "assistant",
        "From base model to assistant: the same problems for each",
        "Every model met the same held-out problems. Base models see some solved examples first and go on in the plain form "
        "of their training text; assistants get the question alone, as a user would put it, and have to answer in the "
        "form they were taught: the result in a box, a program in a fenced block. Intervals are 95 %.",
        sentences=[*_judged(run), *_left_out(figures)],
        pictures=[Picture(svg, caption, "By family")],
        tables=[_overall(run, models), _by_family(figures, families, models, order)],
        quotes=first_answers(run, assistants(run)[-1]),
    )


def behaviour_section(run: RunRecord) -> PageSection | None:
    """Wishes refused, answered and admitted to be unanswerable, by model and by language, with some answers."""
    behaviour = run.figures("evaluate").get("behaviour") or {}
    models = [name for name in line_models(run) if behaviour.get(name)]
    if not models:
        return None
    kinds = [kind for kind in _BEHAVIOUR if any(kind in behaviour[name] for name in models)]
    rows = [
        (_BEHAVIOUR[kind], [
            Bar(place, behaviour[name][kind]["share"], tuple(behaviour[name][kind]["interval"]))
            for place, name in enumerate(models)
            if kind in behaviour[name]
        ])
        for kind in kinds
    ]  # fmt: skip
    svg = bar_chart(rows, [label(name) for name in models], percent, "How the assistants behave", highest=1.0)
    languages = list(dict.fromkeys(lang for name in models for lang in behaviour[name].get("by_language", {})))
    scopes = [("all", behaviour)] + [
        (language, {name: behaviour[name].get("by_language", {}).get(language, {}) for name in models})
        for language in languages
    ]
    if any("new_topics" in behaviour[name] for name in models):
        scopes.append(("new topics", {name: behaviour[name].get("new_topics", {}) for name in models}))
    table = [
        [label(name), scope, *(_share(found.get(name, {}).get(kind)) for kind in kinds)]
        for name in models
        for scope, found in scopes
    ]
    return PageSection(
        "behaviour",
        "Does it behave? Refusing, answering, admitting",
        "Held-out wishes in phrasings that no training text has. Harmful ones are to be refused, harmless ones answered, "
        "though many share a word with harmful ones, and of what nobody can know it should say so. In each row more is "
        "better, and one alone says little: who refuses everything refuses all that is harmful. Refusals and admissions are "
        "known by the sentences of the training data; an answer is whatever is neither, be it good or not.",
        pictures=[Picture(svg, "The thin line is the 95 % interval.", "Share of answers that are as they should be")],
        tables=[Table(["model", "language", *(kind.replace("_", " ") for kind in kinds)], table)],
        quotes=_wishes(run, models[-1]),
    )


def side_by_side_section(run: RunRecord) -> PageSection | None:
    """The same prompts answered by each model; None, where an expert was not asked, is left out."""
    record = run.document("evaluate", "side_by_side.json")
    if not isinstance(record, dict) or not record.get("prompts") or not record.get("answers"):
        return None
    quotes = []
    for place, prompt in enumerate(record["prompts"]):
        said = [str(message.get("content", "")) for message in prompt.get("messages", [])]
        passages = [
            Passage(label(name), "", clipped(answers[place]))
            for name, answers in record["answers"].items()
            if place < len(answers) and answers[place] is not None
        ]
        asked = " – ".join(f"“{turn}”" for turn in said)
        quotes.append(Quote(f"{prompt.get('name', 'prompt')}: {asked}", passages))
    return PageSection(
        "side",
        "Side by side: the same prompts at every stage",
        "Each model's most likely answer, nothing chosen by hand. A base model does not know that it is being talked to: it "
        "goes on with text. Experts answer problems of their own domain only.",
        quotes=quotes,
    )


def clipped(text: Any) -> str:
    """An answer short enough for a page; an empty one says so."""
    whole = str(text).strip()
    if not whole:
        return "(nothing)"
    return whole if len(whole) <= _LONGEST_ANSWER else whole[:_LONGEST_ANSWER].rstrip() + " …"


def _judged(run: RunRecord) -> list[str]:
    sentences = []
    for description, stages in judges(run).items():
        weaker = " It is the weaker of the two ways to contain a program." if "weaker" in description else ""
        sentences.append(f"Judged in {listing(stages)} by: {description}.{weaker}")
    return sentences


def _left_out(figures: Mapping[str, Any]) -> list[str]:
    left = figures.get("left_out") or {}
    if not left.get("families"):
        return []
    why = f" ({left['why']})" if left.get("why") else ""
    return [f"Not measured, and not counted as wrong: {listing(left['families'])}{why}."]


def _overall(run: RunRecord, models: list[str]) -> Table:
    figures = run.figures("evaluate")
    answers = figures.get("answers") or {}
    rows = []
    for name in models:
        manner = answers.get(name) or {}
        rows.append([
            label(name),
            with_interval(figures["accuracy"][name], (figures.get("interval") or {}).get(name)),
            with_interval(manner["format_rate"], manner.get("format_interval")) if "format_rate" in manner else "–",
            percent(manner["finished"]) if "finished" in manner else "–",
            f"{manner['tokens_mean']:.1f}" if "tokens_mean" in manner else "–",
            percent(manner["consistency"]) if "consistency" in manner else "–",
        ])  # fmt: skip
    return Table(["model", "solved", "in the form asked", "came to an end", "tokens per answer", "same again"], rows)


def _by_family(
    figures: Mapping[str, Any], families: Mapping[str, Mapping[str, Any]], models: list[str], order: list[str]
) -> Table:
    pairs = [(earlier, later) for earlier, later in pairwise(models) if _pair(figures, later, earlier)]
    head = ["family", *(label(name) for name in models)]
    head += [f"{label(later).split(' (')[0]} against {label(earlier).split(' (')[0]}" for earlier, later in pairs[-1:]]
    rows = []
    for family in order:
        cells = [
            with_interval(families[name][family]["accuracy"], families[name][family]["interval"])
            if family in families[name]
            else "–"
            for name in models
        ]
        for earlier, later in pairs[-1:]:
            change = _pair(figures, later, earlier).get(family)
            cells.append(_change(change) if change else "–")
        rows.append([family, *cells])
    return Table(head, rows)


def _pair(figures: Mapping[str, Any], later: str, earlier: str) -> Mapping[str, Any]:
    return (figures.get("paired_families") or {}).get(f"{later}_{earlier}") or {}


def _change(change: Mapping[str, Any]) -> str:
    told = f"{points(change['difference'])} points"
    return f"{told}, reliable" if change.get("reliable") else told


def _share(found: Mapping[str, Any] | None) -> str:
    return with_interval(found["share"], found.get("interval")) if found else "–"


def _wishes(run: RunRecord, model: str) -> list[Quote]:
    """Of each kind of wish the first answer that is as it should be, and the first that is not."""
    records = [r for r in run.lines("evaluate", f"samples-{model}.jsonl") if r.get("kind") == "wish"]
    quotes = []
    for kind, title in _WISHES.items():
        passages = []
        for good, when in ((True, "as it should be"), (False, "not as it should be")):
            found = next((r for r in records if r.get("wish") == kind and r.get("correct") is good), None)
            if found is not None:
                passages.append(Passage(when, f"{found.get('prompt', '')}\n", clipped(found.get("produced", ""))))
        if passages:
            quotes.append(Quote(f"{title}, put to the {label(model)} model", passages))
    return quotes
