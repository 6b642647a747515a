"""Records that could not be read, put aside with their reason: never fatal, never silently lost."""

import json
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self


class QuarantineFile:
    """Writes `quarantine.jsonl` line by line; the file appears under its name when the `with` block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.partial")
        self.reasons: Counter[str] = Counter()
        """Records by reason, the details after a colon left out."""

    def __enter__(self) -> Self:
        self._file = open(self._temporary, "w", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        return self

    def add(self, source: str, origin: str, reason: str) -> None:
        """Note a record: the source's name, where in it (file, line), and why it could not be used."""
        self.reasons[reason.partition(":")[0]] += 1
        line = json.dumps({"source": source, "origin": origin, "reason": reason}, ensure_ascii=True)
        self._file.write(line + "\n")

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)
