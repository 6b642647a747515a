"""What a run directory tells: manifests, metrics and samples, read for the report and the journey's table.

Nothing here needs torch. A stage that is absent, a file that is missing and a last line cut short by a kill
are all normal: the reader gets what is there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.run import Manifest, read_manifest

JOURNEY = (
    "corpus", "tokenizer", "pretrain", "extend", "specialise", "distill", "review", "finetune", "reward",
    "reinforce", "evaluate", "report",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """A run directory with the manifests of its finished stages, in the order of the journey."""

    folder: Path
    manifests: Mapping[str, Manifest]

    def figures(self, stage: str) -> dict[str, Any]:
        """A stage's figures; empty where it is not finished."""
        return self.manifests[stage].figures if stage in self.manifests else {}

    def lines(self, stage: str, file: str) -> list[dict[str, Any]]:
        """The records of a stage's JSON lines file; empty where there is none."""
        return read_lines(self.folder / stage / file)

    def document(self, stage: str, file: str) -> Any:
        """A stage's JSON file, None where there is none or it is damaged."""
        try:
            return json.loads((self.folder / stage / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def read_run(folder: Path) -> RunRecord:
    """Reads all manifests of a run; stages that sapience does not know come last, by name."""
    found = {path.parent.name: read_manifest(path.parent) for path in sorted(folder.glob("*/manifest.json"))}
    order = [*JOURNEY, *(name for name in found if name not in JOURNEY)]
    manifests = {name: manifest for name in order if (manifest := found.get(name)) is not None}
    return RunRecord(folder, manifests)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON lines file; lines that are not a whole JSON object are left out.

    A line ends at a line feed alone: the other separators that Unicode knows stand unescaped inside texts.
    """
    records = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
