"""A source of the recipe as records, whatever its type."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sapience.corpus.files import list_files, read_files, user_files
from sapience.corpus.hub import read_dataset
from sapience.corpus.installed import read_installed
from sapience.corpus.packages import unpack_debian, unpack_wheels
from sapience.corpus.records import Reading, Record, SourceMissing
from sapience.recipe.corpus import (
    DebianSection,
    FilesSection,
    HuggingFaceSection,
    InstalledSection,
    TextSourceSection,
    WheelSection,
)
from sapience.recipe.errors import UserError


def read_records(section: TextSourceSection, reading: Reading) -> Iterator[Record]:
    """The records of a source, streamed; what cannot be read goes into `reading`.

    Raises SourceMissing where the source cannot be had, UserError where the recipe is wrong about it.
    """
    match section:
        case FilesSection():
            root, files = user_files(section.path, section.include, section.exclude, section.name)
            yield from read_files(root, files, section.field, reading)
        case DebianSection() | WheelSection():
            yield from _unpacked(section, reading)
        case InstalledSection():
            yield from read_installed(section.modules, section.part, section.exclude, section.name, reading)
        case HuggingFaceSection():
            yield from read_dataset(section, reading)
        case _:
            raise TypeError(f"{type(section).__name__} is no source of records")


def _unpacked(section: DebianSection | WheelSection, reading: Reading) -> Iterator[Record]:
    with TemporaryDirectory(prefix="sapience-") as name:
        folder = Path(name)
        if isinstance(section, DebianSection):
            reading.version = unpack_debian(section.packages, folder)
        else:
            reading.version = unpack_wheels(section.packages, section.include, folder)
        files = list_files(folder, section.include, section.exclude, section.name)
        if not files:
            raise UserError(
                f"the source {section.name} finds no readable file in {reading.version}: check its include patterns"
            )
        yield from read_files(folder, files, "text", reading)


def read_or_explain(section: TextSourceSection, reading: Reading) -> Iterator[Record]:
    """As `read_records`; a source that cannot be had and is not optional is the user's to mend.

    Raises SourceMissing for an optional source, else UserError.
    """
    try:
        yield from read_records(section, reading)
    except SourceMissing as error:
        if section.optional:
            raise
        raise UserError(f"the source {section.name} cannot be had: {error}; or mark it optional: true") from None
