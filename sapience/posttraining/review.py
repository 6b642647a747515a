"""The stage `review`: puts everyday answers before people, and collects what may be trained on.

Reasoning samples were checked by rules and always pass. An everyday answer passes because people accepted or edited it,
or because the recipe lets its kind pass unreviewed; its source says which. A person's word always wins: what somebody
would change or reject does not pass unreviewed, even while too few have spoken. What people accepted earlier, or in
another run that shares the queue, stays, whatever is drafted today: their work is never thrown away.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapience.corpus.chat import Message
from sapience.posttraining.samples import Sample, read_samples, unique, write_samples
from sapience.recipe.errors import UserError
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Draft, RaterAgreement, Reviewed, Standing
from sapience.run import StageContext

SAMPLES = "samples.jsonl"
UNREVIEWED = "; not reviewed"


@dataclass(frozen=True)
class _Said:
    """What people said so far."""

    reviewed: list[Reviewed]
    standings: dict[str, Standing]
    agreement: RaterAgreement | None


def run(context: StageContext) -> dict[str, Any]:
    """Fill the queue and write `samples.jsonl`. Raises UserError where nothing may be trained on yet."""
    section = context.recipe.review
    distilled = context.inputs.get("distill")
    checked, written, machine = (
        [sample for name in names for sample in _read(distilled, name)]
        for names in (("original", "reasoned"), ("everyday",), ("drafts",))
    )
    shown: dict[str, Draft] = {}
    waved: list[tuple[str, Sample]] = []
    not_shown = 0
    for samples, waits, passes in (
        (written, section.unreviewed == "none", section.unreviewed != "none"),
        (machine, True, section.unreviewed == "all"),
    ):
        for sample in samples:
            try:
                draft = _draft(sample)
            except ValueError:
                not_shown += 1
                continue
            if waits:
                shown.setdefault(draft.identity, draft)
            if passes:
                waved.append((draft.identity, replace(sample, source=sample.source + UNREVIEWED)))
    said = _ask(section.url or queue_url(context.run), section.votes, list(shown.values()))
    decided = list(_decided(said.reviewed))
    unreviewed = [sample for identity, sample in waved if _untouched(said.standings.get(identity))]
    vouched = list(unique([*checked, *decided]))
    collected = list(unique([*vouched, *unreviewed]))
    outcomes = Counter(standing.outcome for standing in said.standings.values())
    if not collected:
        raise UserError(_nothing(context.run, outcomes[None], outcomes["reject"]))
    write_samples(context.folder / SAMPLES, collected)
    kinds = Counter(sample.kind for sample in collected)
    return {
        "samples": len(collected),
        "by_kind": {kind: kinds[kind] for kind in ("original", "reasoned", "everyday")},
        "waiting": outcomes[None],
        "accepted": outcomes["accept"],
        "edited": outcomes["edit"],
        "rejected": outcomes["reject"],
        "unreviewed": len(collected) - len(vouched),
        "agreement": said.agreement.percent / 100 if said.agreement and said.agreement.percent is not None else None,
        "kappa": said.agreement.kappa if said.agreement else None,
        "not_shown": not_shown,
    }


def _read(folder: Path | None, name: str) -> list[Sample]:
    """A file of the stage `distill`, which makes only those that the recipe asks for."""
    path = folder / f"{name}.jsonl" if folder else None
    return read_samples(path) if path and path.is_file() and path.stat().st_size else []


def _draft(sample: Sample) -> Draft:
    """The last answer to the conversation before it. Raises ValueError for what no page can show."""
    asked = tuple((message.role, message.content) for message in sample.messages[:-1])
    return Draft.of(asked, sample.answer, sample.language, sample.family, sample.source)


def _ask(url: str, votes: int, drafts: list[Draft]) -> _Said:
    """Add what is new to the queue and hear what was said; nobody makes a queue that is not needed."""
    if not drafts and not ReviewQueue.exists(url):
        return _Said([], {}, None)
    queue = ReviewQueue.open(url, votes)
    try:
        queue.add_drafts(drafts)
        decisions = queue.agreement().decisions
        return _Said(queue.reviewed(), queue.standings(), decisions if decisions.items else None)
    finally:
        queue.close()


def _decided(reviewed: list[Reviewed]) -> Iterator[Sample]:
    """What people accepted, or wrote in place of the draft."""
    for one in reviewed:
        messages = (*(Message(*turn) for turn in one.draft.messages), Message("assistant", one.answer))  # type: ignore[arg-type]
        yield Sample(messages, "everyday", one.provenance, family=one.draft.category, language=one.draft.language)


def _untouched(standing: Standing | None) -> bool:
    """True while nobody would change or reject an answer, nor have enough people accepted it."""
    return standing is None or (standing.outcome is None and not standing.edit and not standing.reject)


def _nothing(run: Path, waiting: int, rejected: int) -> str:
    if waiting:
        return (
            f"nothing may be trained on yet: {waiting} everyday answers wait for a person; judge some with `sapience "
            f"review {run}` and run again, or let them pass by review.unreviewed"
        )
    if rejected:
        return f"nothing may be trained on: people rejected all {rejected} everyday answers; let distill make others"
    return (
        "nothing may be trained on: distill made no samples; set distill.written or distill.generator, or give experts"
    )
