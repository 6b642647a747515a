"""The recipe's `corpus` section: which text a model reads, and how it is cleaned before it does.

Every source names the domain its documents belong to. A domain is what training mixes and what evaluation measures:
it has its own held-out text and its own share of the training rows. Sources are of few kinds, told apart by `type`:
the user's own files, Hugging Face data sets, packages of the Debian archive and of the Python package index, the
sources and docstrings of installed Python packages, generated problems and lookup documents.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.section import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
DocumentKind = Literal["text", "code", "math", "problem"]


class SourceSection(Section):
    """What every source says of itself."""

    name: Name
    """Names the source in provenance and reports; unique."""
    domain: Name
    """The domain its documents belong to; several sources may share one."""
    weight: PositiveFloat = 1.0
    """Share of the training rows that this source adds to its domain's, relative to the other sources' weights.
    Within a domain every document is drawn equally often, whatever its source."""
    license: str = "unknown"
    """Licence of the text, for the provenance."""


class TextSourceSection(SourceSection):
    """A source of documents that somebody wrote, which are cleaned, deduplicated and partly held out."""

    kind: DocumentKind = "text"
    """`code` is cut at top-level definitions and gets fill-in-the-middle; language filters apply to `text` only."""
    language: str | None = None
    """ISO 639-1 code of the language that documents must be in; None keeps every language and records what is
    detected. Applies to kind `text`."""
    limit_mb: PositiveFloat | None = None
    """Clean text taken from the source, in units of 10^6 bytes of UTF-8; None takes all. Files are taken in the
    order of a hash of their path, records of a file in their own order."""
    repeated_lines: PositiveInt | None = None
    """A line that this source has brought so many times already is dropped: navigation, notices, stock phrases.
    None keeps all lines."""
    optional: bool = False
    """A source that cannot be had is named in the figures and left out instead of ending the run."""
    fallback: bool = False
    """Read only where the sources before it have brought its domain nothing."""


class FilesSection(TextSourceSection):
    """The user's own files: txt, md, html, po, jsonl, jsonl.gz, jsonl.zst, parquet and source code."""

    type: Literal["files"]
    path: str
    """A file or a folder; a folder is searched with `include`. Relative to the working directory."""
    include: tuple[str, ...] = ("**/*",)
    """Patterns of files below the folder. Files of no known format are passed over."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out."""
    field: str = "text"
    """Field of a JSON line or column of a parquet file that holds the text."""


class DebianSection(TextSourceSection):
    """Files of packages of the Debian or Ubuntu archive, downloaded by `apt-get` without root or installation."""

    type: Literal["debian"]
    packages: tuple[str, ...] = Field(min_length=1)
    """Names of packages; versions are what the machine's archive offers."""
    include: tuple[str, ...]
    """Patterns of files inside the packages."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out."""
    optional: bool = True
    """The archive cannot be reached from every Linux."""


class WheelSection(TextSourceSection):
    """Files of packages of the Python package index, downloaded by pip and not installed."""

    type: Literal["wheel"]
    packages: tuple[str, ...] = Field(min_length=1)
    """Requirements, such as `django==6.0`; dependencies are not downloaded. Without a version the newest is taken."""
    include: tuple[str, ...]
    """Patterns of files inside the wheels."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out."""
    optional: bool = True
    """The index cannot be reached from every machine."""


class InstalledSection(TextSourceSection):
    """Sources or docstrings of Python packages that are installed here anyway."""

    type: Literal["installed"]
    modules: tuple[str, ...] = Field(min_length=1)
    """Importable packages; `stdlib` stands for the standard library. They are read, not imported."""
    part: Literal["source", "docstrings"] = "source"
    """Whole modules, cut into documents, or the docstrings alone."""
    exclude: tuple[str, ...] = ("**/tests/**", "**/test/**", "**/_vendor/**", "**/test_*.py")
    """Patterns of files, relative to the module's folder, to leave out."""


class HuggingFaceSection(TextSourceSection):
    """A data set of the Hugging Face hub, streamed."""

    type: Literal["huggingface"]
    dataset: str
    """Name on the hub, such as `HuggingFaceFW/fineweb-edu`."""
    config: str | None = None
    """The data set's configuration, where it has several."""
    split: str = "train"
    """The data set's split."""
    field: str = "text"
    """Column that holds the text."""
    revision: str | None = None
    """Commit of the data set; name one to get the same text again later."""


class ProblemsSection(SourceSection):
    """Generated problems with answers, of the training split only."""

    type: Literal["problems"]
    domain: Name = "skills"
    license: str = "Apache-2.0"
    families: dict[str, PositiveInt] = Field(min_length=1)
    """Problem family -> number of different problems."""
    worked: float = Field(default=0.4, ge=0, le=1)
    """Share of the problems whose answer is preceded by its steps, where the family has steps."""
    together: PositiveInt = 1
    """Problems of one family in a document, at most; each document has between one and so many, so that few-shot
    prompts look familiar."""


class LookupSection(SourceSection):
    """Generated documents in which facts hidden in text of the corpus have to be found again, as in needle tests."""

    type: Literal["lookup"]
    domain: Name = "lookup"
    license: str = "as the filler's"
    documents: PositiveInt = 10_000
    """Number of documents."""
    needles: tuple[PositiveInt, PositiveInt] = (1, 4)
    """Fewest and most facts in a document."""
    questions: tuple[PositiveInt, PositiveInt] = (1, 2)
    """Fewest and most questions at the end of a document; never more than it has facts."""
    total_bytes: tuple[PositiveInt, PositiveInt] = (150, 260)
    """Shortest and longest document in bytes of UTF-8: filler text takes what facts and questions leave. Choose the
    longest so that a document fits into the context; facts and questions alone may be longer."""
    filler_domains: tuple[Name, ...] = ()
    """Domains whose training text is the filler; empty takes all with documents of kind `text`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("needles", "questions", "total_bytes"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} [{low}, {high}] must be [fewest, most]")
        return self


class DrillsSection(SourceSection):
    """Generated short documents that repeat random sequences and pairs: what forms the ability to copy."""

    type: Literal["drills"]
    domain: Name = "drills"
    license: str = "Apache-2.0"
    documents: PositiveInt = 20_000
    """Number of documents; a hundred thousand take 2 MB."""


Source = Annotated[
    FilesSection
    | DebianSection
    | WheelSection
    | InstalledSection
    | HuggingFaceSection
    | ProblemsSection
    | LookupSection
    | DrillsSection,
    Field(discriminator="type"),
]


class CorpusSection(Section):
    """From sources to clean documents: training text and held-out text by domain."""

    sources: tuple[Source, ...] = ()
    """In the order in which they are read; of duplicates the first stays."""
    record_limit_mb: PositiveFloat = 20.0
    """A record larger than this, in units of 10^6 bytes, is set aside unread and counted."""
    document_bytes: PositiveInt = 4000
    """Code and docstrings are cut into documents of about this many bytes, at definitions and empty lines."""
    text_bytes: PositiveInt = 100_000
    """Longer prose is cut between paragraphs, so that a part of a single book can be held out."""
    shortest: int = Field(default=100, ge=0)
    """Bytes of UTF-8 below which a document is dropped."""
    language_certainty: float = Field(default=0.5, ge=0, le=1)
    """A document counts as written in the wrong language where the detector is at least so sure."""
    near_duplicates: float = Field(default=0.7, gt=0, le=1)
    """Estimated Jaccard similarity of runs of five words (of characters, in Chinese, Japanese and Korean) from which
    the later of two documents is dropped; 1 drops exact duplicates only."""
    held_out_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of a domain's bytes that is held out, chosen by the documents' content hash."""
    held_out_kb: float = Field(default=100.0, ge=0)
    """Held-out text of a domain, in units of 1024 bytes, at least; a tenth of the domain at most."""
    decontamination_ngram: PositiveInt = 13
    """A document that shares so many words in a row with a held-out problem is dropped. Shorter problems count as a
    whole, from eight words on."""
    problem_files: tuple[str, ...] = ()
    """JSON lines with a field `question`, `prompt`, `problem` or `text` to decontaminate against, beside the test
    problems that come with sapience."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are named {', '.join(twice)}: give each its own name")
        made = {s.domain for s in self.sources if isinstance(s, ProblemsSection | LookupSection | DrillsSection)}
        written = {s.domain for s in self.sources if isinstance(s, TextSourceSection)}
        both = sorted(made & written)
        if both:
            raise ValueError(
                f"domain {', '.join(both)} mixes written and generated documents, of which only the former can be "
                "held out: give the generated ones a domain of their own"
            )
        return self

    def domains(self) -> list[str]:
        """Names of all domains that a source may bring, sorted."""
        return sorted({source.domain for source in self.sources})

    def weights(self) -> dict[str, float]:
        """Share of the training rows by domain, unnormalised: the sum of its sources' weights, fallbacks left out
        where the domain has other sources."""
        totals: dict[str, float] = {}
        for source in self.sources:
            if isinstance(source, TextSourceSection) and source.fallback and source.domain in totals:
                continue
            totals[source.domain] = totals.get(source.domain, 0.0) + source.weight
        return totals

    def optional_domains(self) -> set[str]:
        """Domains that may stay empty on some machines, because all their sources are optional."""
        needed = {s.domain for s in self.sources if not (isinstance(s, TextSourceSection) and s.optional)}
        return set(self.domains()) - needed
