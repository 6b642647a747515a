"""Records of a data set on the Hugging Face hub, streamed: nothing but what is taken is downloaded."""

from collections.abc import Iterator

from sapience.corpus.records import Reading, Record, SourceMissing
from sapience.recipe.corpus import HuggingFaceSection
from sapience.recipe.errors import UserError


def read_dataset(section: HuggingFaceSection, reading: Reading) -> Iterator[Record]:
    """The records in the data set's order.

    Raises UserError where the library is missing or the column does not exist, SourceMissing where the data set
    cannot be opened.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"the source {section.name} needs the library datasets: pip install 'sapience[corpus]'"
        ) from None
    try:
        rows = load_dataset(
            section.dataset, section.config, split=section.split, revision=section.revision, streaming=True
        )
        reading.version = section.revision or str(getattr(rows.info, "version", None) or "latest")
        for number, row in enumerate(rows, start=1):
            where = f"{section.dataset}:{number}"
            if section.field not in row:
                raise UserError(
                    f"the data set {section.dataset} has no column {section.field!r}: it has {', '.join(row)}"
                )
            text = row[section.field]
            if not isinstance(text, str):
                reading.set_aside("no text", where, f"the row has no text in {section.field!r}")
            elif len(text.encode("utf-8", "surrogatepass")) > reading.record_limit:
                reading.too_large(where)
            else:
                yield Record(text, where)
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceMissing(f"data set {section.dataset}: {' '.join(str(error).split())[:300]}") from error
