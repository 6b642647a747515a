"""The recipe's fields in words, from their docstrings."""

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sapience.recipe.errors import UserError
from sapience.recipe.loading import section_of
from sapience.recipe.tree import Recipe


def explain(dotted: str = "") -> list[tuple[str, str, str, str]]:
    """(field, type, default, meaning) of every field below `dotted`, or of that one field.

    Raises UserError for a name that no recipe has.
    """
    model: type[BaseModel] = Recipe
    prefix = ""
    parts = [part for part in dotted.split(".") if part]
    for index, part in enumerate(parts):
        field = model.model_fields.get(part)
        if field is None:
            raise UserError(f"no field {dotted!r} in a recipe: here there are {', '.join(model.model_fields)}")
        inner = section_of(field.annotation)
        if inner is None:
            if index + 1 < len(parts):
                raise UserError(f"{part} is a plain field, it has no {parts[index + 1]!r}")
            return [_row(prefix + part, field)]
        model, prefix = inner, f"{prefix}{part}."
    return [_row(prefix + name, field) for name, field in model.model_fields.items()]


def _row(name: str, field: Any) -> tuple[str, str, str, str]:
    inner = section_of(field.annotation)
    kind = f"section {inner.__name__}" if inner else str(getattr(field.annotation, "__name__", field.annotation))
    default = "" if field.default is PydanticUndefined or inner else repr(field.default)
    described = field.description or (inner.__doc__ or "").strip().split("\n")[0] if inner else field.description or ""
    return name, kind, default, " ".join(described.split())
