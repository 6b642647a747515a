"""The published problem sets, which are no part of the project: `../shared/data/problems` beside a checkout."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "problems"


def published(name: str) -> Path:
    """The file of that name; skips the test where it is not at hand."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not here: the published problems are no part of the project")
    return path


def published_records(name: str) -> list[dict[str, Any]]:
    """Its records, read without the project's own readers; skips as `published` does."""
    with published(name).open("rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line) for line in text if line.strip()]
