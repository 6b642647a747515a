"""Metrics of a stage: one JSON object a line, and the same numbers as TensorBoard events where tensorboard is installed.

After a kill the log may run ahead of the last checkpoint; `rewind` drops those lines, so that the log of an interrupted
run reads like that of an undisturbed one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sapience.run import write_atomically


class MetricsLog:
    """A stage's JSONL files, each record with its `step`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: Any = None

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one record to `NAME.jsonl`; the numbers of `metrics` go to TensorBoard as well."""
        with open(self.folder / f"{name}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if name == "metrics":
            self._to_tensorboard(record)

    def read(self, name: str) -> list[dict[str, Any]]:
        """All records of `NAME.jsonl`; a torn last line is left out."""
        path = self.folder / f"{name}.jsonl"
        records = []
        if path.is_file():
            # Lines end in \n alone: the model's texts may hold what str.splitlines takes for ends of lines.
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    records.append(record)
        return records

    def rewind(self, step: int) -> None:
        """Forget everything after `step` (which counts finished steps)."""
        for path in self.folder.glob("*.jsonl"):
            kept = [r for r in self.read(path.stem) if r.get("step", 0) <= step]
            write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._events is not None:
            self._events.close()

    def _to_tensorboard(self, record: Mapping[str, Any]) -> None:
        if self._events is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._events = _Nowhere()
            else:
                self._events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=int(record.get("step", 0)))
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._events.add_scalar(key, value, record["step"])


class _Nowhere:
    """Takes TensorBoard's place where it is not installed."""

    def add_scalar(self, *_: Any) -> None:
        return None

    def close(self) -> None:
        return None
