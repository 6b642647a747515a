"""The stage `corpus`: raw text to documents worth training on, and a part of them that nobody trains on.

    train/DOMAIN.jsonl.zst, heldout/DOMAIN.jsonl.zst   documents
    provenance.json                                    per source: what it is, what was kept of it, under which licence
    quarantine.jsonl                                   records that could not be read, and why

Each written source is read and cleaned on its own (and kept in `drafts/` until the stage is finished, which an
interrupted stage goes on from); then all are compared, split and written by domain; generated documents come last,
since lookups are hidden in the training text. The result is a function of the recipe and of what the sources hold.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from sapience.corpus.decontamination import HeldOutQuestions, recipe_questions
from sapience.corpus.documents import Document, read_documents, write_documents
from sapience.corpus.drafts import Account, Draft, make_draft
from sapience.corpus.generated import Filler, drill_documents, lookup_documents, problem_documents
from sapience.corpus.selection import EXACT, HELD_OUT, NEAR, TRAIN, Selection, select
from sapience.recipe import UserError
from sapience.recipe.corpus import DrillsSection, LookupSection, ProblemsSection, Source, TextSourceSection
from sapience.run import StageContext, write_atomically

FILLER_BYTES = 2_000_000
"""Text of a domain that lookups are hidden in: enough variety, little memory."""


class Tally:
    """Counts what is written: by source for the provenance, by domain and language for the figures."""

    def __init__(self) -> None:
        self.documents: dict[str, Counter[str]] = {"train": Counter(), "heldout": Counter()}
        self.bytes: dict[str, Counter[str]] = {"train": Counter(), "heldout": Counter()}
        self.languages: Counter[str] = Counter()
        self.source_documents: Counter[str] = Counter()
        self.source_bytes: Counter[str] = Counter()
        self.source_hashes: dict[str, Any] = {}

    def counted(self, part: str, documents: Iterator[Document]) -> Iterator[Document]:
        """Pass documents on, counting them."""
        for document in documents:
            size = len(document.text.encode())
            self.documents[part][document.domain] += 1
            self.bytes[part][document.domain] += size
            self.languages[document.language or document.kind] += size
            self.source_documents[document.source] += 1
            self.source_bytes[document.source] += size
            self.source_hashes.setdefault(document.source, sha256()).update(document.id.encode())
            yield document


def run_corpus(context: StageContext) -> dict[str, Any]:
    """Make the corpus in the stage's folder; returns its figures.

    Raises UserError for a source that cannot be had and is not optional, and for a domain that ends without documents.
    """
    section, folder = context.recipe.corpus, context.folder
    if not section.sources:
        raise UserError(
            "the corpus has no sources: give corpus.sources one, such as {type: files, name: mine, path: …}"
        )
    for part in ("train", "heldout", "drafts"):
        (folder / part).mkdir(exist_ok=True)
    questions = recipe_questions(context.recipe)
    drafts = make_drafts(context, held_out_questions(questions, section.decontamination_ngram))
    selection = select(drafts, section) if drafts else Selection([])
    tally = Tally()
    written = write_written(context, drafts, selection, tally)
    write_generated(context, tally)
    _refuse_empty(section.sources, drafts, tally)
    record = provenance(section.sources, drafts, tally) | {"held_out": held_out_figures(questions, drafts)}
    write_atomically(folder / "provenance.json", json.dumps(record, indent=1))
    write_atomically(folder / "quarantine.jsonl", "".join(_set_aside(drafts)))
    _throw_away(folder / "drafts")
    return figures(drafts, tally, written) | {"held_out_problems": held_out_figures(questions, drafts)}


def held_out_questions(sets: Mapping[str, Sequence[str]], run: int) -> HeldOutQuestions:
    """All sets in one, so that a text is hashed once."""
    names = (name for name, questions in sets.items() for _ in questions)
    return HeldOutQuestions((question for questions in sets.values() for question in questions), run, names)


def held_out_figures(sets: Mapping[str, Sequence[str]], drafts: Sequence[Draft]) -> dict[str, dict[str, int]]:
    """By set: how many questions were looked for, and how many documents were dropped for holding one; a document with
    questions of several sets counts for the first."""
    dropped = sum((Counter(draft.account.held_out) for draft in drafts), Counter[str]())
    return {name: {"questions": len(found), "documents": dropped[name]} for name, found in sets.items()}


def _throw_away(folder: Path) -> None:
    """Delete a folder so that a kill in between leaves it whole or not there, never by half."""
    used = folder.with_name(f".{folder.name}-used")
    shutil.rmtree(used, ignore_errors=True)
    folder.rename(used)
    shutil.rmtree(used)


def make_drafts(context: StageContext, held_out: HeldOutQuestions) -> list[Draft]:
    """Every written source, read and cleaned, in the recipe's order."""
    sources = [source for source in context.recipe.corpus.sources if isinstance(source, TextSourceSection)]
    drafts: list[Draft] = []
    with context.progress("reading sources", len(sources)) as bar:
        for source in sources:
            served = any(len(d.sizes()) for d in drafts if d.section.domain == source.domain)
            if not (source.fallback and served):
                drafts.append(make_draft(source, context.recipe.corpus, held_out, context.folder / "drafts", bar))
            bar.advance(1, source=source.name)
    return drafts


def write_written(context: StageContext, drafts: Sequence[Draft], selection: Selection, tally: Tally) -> Counter[str]:
    """Write the documents of all drafts by part and domain; returns how many were dropped as repetitions."""
    domains = sorted({draft.section.domain for draft in drafts})
    with context.progress("writing documents", 2 * len(domains)) as bar:
        for domain in domains:
            for part, fate in (("train", TRAIN), ("heldout", HELD_OUT)):
                chosen = (
                    document
                    for draft, fates in zip(drafts, selection.fates, strict=True)
                    if draft.section.domain == domain
                    for document, found in zip(draft.documents(), fates.tolist(), strict=True)
                    if found == fate
                )
                _write(context.folder / part / f"{domain}.jsonl.zst", tally.counted(part, chosen))
                bar.advance(1)
    names = {EXACT: "exact duplicate", NEAR: "near duplicate"}
    return Counter({name: int(sum((f == fate).sum() for f in selection.fates)) for fate, name in names.items()})


def write_generated(context: StageContext, tally: Tally) -> None:
    """Write the documents of the generated sources, several sources of a domain one after the other."""
    by_domain: dict[str, list[ProblemsSection | LookupSection | DrillsSection]] = {}
    for source in context.recipe.corpus.sources:
        if isinstance(source, ProblemsSection | LookupSection | DrillsSection):
            by_domain.setdefault(source.domain, []).append(source)
    with context.progress("generating documents", sum(map(len, by_domain.values()))) as bar:
        for domain, sources in by_domain.items():
            made = (document for source in sources for document in _generate(source, context))
            _write(context.folder / "train" / f"{domain}.jsonl.zst", tally.counted("train", made))
            bar.advance(len(sources), domain=domain)


def _generate(source: ProblemsSection | LookupSection | DrillsSection, context: StageContext) -> Iterator[Document]:
    if isinstance(source, ProblemsSection):
        return problem_documents(source, context.recipe.seed)
    if isinstance(source, DrillsSection):
        return drill_documents(source, context.recipe.seed)
    texts: list[str] = []
    for path in sorted((context.folder / "train").glob("*.jsonl.zst")):
        domain, left = path.name.removesuffix(".jsonl.zst"), FILLER_BYTES
        if source.filler_domains and domain not in source.filler_domains:
            continue
        for document in read_documents(path):
            if document.kind != "text" or left <= 0:
                break
            texts.append(document.text)
            left -= len(document.text.encode())
    return lookup_documents(source, Filler(texts), context.recipe.seed)


def _write(path: Path, documents: Iterator[Document]) -> None:
    """A file of documents, or none where there are no documents."""
    if not write_documents(path, documents):
        path.unlink()


def _refuse_empty(sources: Sequence[Source], drafts: Sequence[Draft], tally: Tally) -> None:
    """Raises UserError for a domain without training documents, unless all its sources are optional and missing."""
    missing = {draft.section.name for draft in drafts if draft.account.missing}
    for domain in sorted({source.domain for source in sources}):
        names = [source.name for source in sources if source.domain == domain]
        if not tally.documents["train"][domain] and not set(names) <= missing:
            raise UserError(
                f"no document of domain {domain} is left for training (sources: {', '.join(names)}): give it more "
                "text or lower corpus.shortest; what was dropped: "
                + (_dropped_of([d for d in drafts if d.section.domain == domain]) or "nothing, the sources are empty")
            )
    if not tally.documents["train"]:
        reasons = "; ".join(f"{draft.section.name}: {draft.account.missing}" for draft in drafts)
        raise UserError(f"the corpus is empty: none of its sources can be had ({reasons})")


def _dropped_of(drafts: Sequence[Draft]) -> str:
    counts = sum((Counter(d.account.dropped) + Counter(d.account.set_aside) for d in drafts), Counter[str]())
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _set_aside(drafts: Sequence[Draft]) -> Iterator[str]:
    for draft in drafts:
        for place in draft.account.places:
            yield json.dumps({"source": draft.section.name, **place}) + "\n"


def provenance(sources: Sequence[Source], drafts: Sequence[Draft], tally: Tally) -> dict[str, Any]:
    """Per source: what it is, what was kept of it, its content hash; training and held-out parts together."""
    accounts = {draft.section.name: draft.account for draft in drafts}
    entries = []
    for source in sources:
        if isinstance(source, TextSourceSection) and source.name not in accounts:
            continue  # a fallback that was not needed
        account = accounts.get(source.name, Account())
        digest = tally.source_hashes.get(source.name, sha256())
        entry = {
            "name": source.name,
            "type": source.type,
            "domain": source.domain,
            "kind": source.kind if isinstance(source, TextSourceSection) else "problem",
            "license": source.license,
            "version": account.version,
            "records": account.records,
            "documents": tally.source_documents[source.name],
            "bytes": tally.source_bytes[source.name],
            "sha256": digest.hexdigest(),
            "dropped": account.dropped,
            "set_aside": account.set_aside,
        }
        entries.append(entry | ({"missing": account.missing} if account.missing else {}))
    return {"sources": entries}


def figures(drafts: Sequence[Draft], tally: Tally, repetitions: Counter[str]) -> dict[str, Any]:
    """For the manifest; bytes are of UTF-8."""
    dropped, aside = Counter(repetitions), Counter[str]()
    for draft in drafts:
        dropped.update(draft.account.dropped)
        aside.update(draft.account.set_aside)
    return {
        "documents": dict(sorted(tally.documents["train"].items())),
        "bytes": dict(sorted(tally.bytes["train"].items())),
        "held_out_documents": dict(sorted(tally.documents["heldout"].items())),
        "held_out_bytes": dict(sorted(tally.bytes["heldout"].items())),
        "bytes_by_language": dict(sorted(tally.languages.items())),
        "dropped": dict(sorted((+dropped).items())),
        "set_aside": dict(sorted(aside.items())),
        "sources_used": sorted(tally.source_documents),
        "sources_missing": {d.section.name: d.account.missing for d in drafts if d.account.missing},
    }
