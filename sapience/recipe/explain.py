"""The recipe's fields in words, from their docstrings."""

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sapience.recipe.errors import UserError
from sapience.recipe.loading import kind_of, sections_of
from sapience.recipe.tree import Recipe

Row = tuple[str, str, str, str]
"""Field, type, default, meaning."""


def explain(dotted: str = "") -> list[Row]:
    """Every field below `dotted`, or that one field.

    Where there are sections of several kinds, as in `corpus.sources`, a field that not all of them have says which do.
    Raises UserError for a name that no recipe has.
    """
    sections: list[type[BaseModel]] = [Recipe]
    prefix = ""
    parts = [part for part in dotted.split(".") if part]
    for index, part in enumerate(parts):
        owners = [section for section in sections if part in section.model_fields]
        if not owners:
            known = dict.fromkeys(name for section in sections for name in section.model_fields)
            raise UserError(f"no field {dotted!r} in a recipe: here there are {', '.join(known)}")
        inner = sections_of(owners[0].model_fields[part].annotation)
        if not inner:
            if index + 1 < len(parts):
                raise UserError(f"{part} is a plain field, it has no {parts[index + 1]!r}")
            return [row for row in _rows(prefix, sections) if row[0] == prefix + part]
        sections, prefix = inner, f"{prefix}{part}."
    return _rows(prefix, sections)


def _rows(prefix: str, sections: list[type[BaseModel]]) -> list[Row]:
    owners: dict[Row, list[type[BaseModel]]] = {}
    for section in sections:
        for name, field in section.model_fields.items():
            owners.setdefault(_row(prefix + name, field), []).append(section)
    return [_with_kinds(row, having) if len(having) < len(sections) else row for row, having in owners.items()]


def _with_kinds(row: Row, owners: list[type[BaseModel]]) -> Row:
    name, kind, default, meaning = row
    return name, kind, default, f"({', '.join(map(kind_of, owners))}) {meaning}"


def _row(name: str, field: Any) -> Row:
    inner = sections_of(field.annotation)
    kind = f"section {inner[0].__name__}" if inner else str(getattr(field.annotation, "__name__", field.annotation))
    if len(inner) > 1:
        kind = "sections of kinds " + ", ".join(map(kind_of, inner))
    default = "" if field.default is PydanticUndefined or inner else repr(field.default)
    described = (
        field.description or (inner[0].__doc__ or "").strip().split("\n")[0] if inner else field.description or ""
    )
    return name, kind, default, " ".join(described.split())
