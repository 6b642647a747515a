"""Problems of a data set on the Hugging Face hub, or of a folder in its layout, streamed record by record.

Streaming downloads no more than is taken. The library is imported here alone, since it is optional and slow to load.
Not covered: data sets that bring code of their own to be executed.
"""

from __future__ import annotations

from collections.abc import Iterator

from sapience.problems.record_files import Place, checked_record
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import ProblemFileSection


def dataset_records(section: ProblemFileSection) -> Iterator[Place]:
    """The rows of `section.dataset` in its order. Raises UserError where it, or the library, cannot be had."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"the data set {section.dataset} needs the library datasets: pip install 'sapience[corpus]'"
        ) from None
    try:
        rows = load_dataset(
            section.dataset, section.config, split=section.hub_split, revision=section.revision, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            try:
                yield number, checked_record(row)
            except ValueError as error:
                yield number, str(error)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the data set {section.dataset} cannot be read ({reason}): check its name, config and hub_split and the network"
        ) from error
