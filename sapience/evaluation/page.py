"""What a page of the report is made of. Texts are plain and are escaped by the template; pictures are
finished SVG."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """An SVG with the sentence under it."""

    svg: str
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wordy: bool = False
    """Cells hold phrases: on a narrow screen each row becomes a block."""


@dataclass(frozen=True)
class Passage:
    """A prompt and how a model went on; `when` names the moment, empty where there is only one."""

    when: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Quote:
    """Passages that are to be read one after the other, under a title."""

    title: str
    passages: Sequence[Passage]


@dataclass(frozen=True)
class PageSection:
    """A heading that says what is to be seen, a paragraph for a newcomer, then what there is to see."""

    anchor: str
    title: str
    lead: str
    sentences: Sequence[str] = field(default_factory=list)
    pictures: Sequence[Picture] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
    quotes: Sequence[Quote] = field(default_factory=list)
