"""From a YAML file and dotted overrides to a validated recipe, with errors that a person can act on."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sapience.recipe.errors import UserError
from sapience.recipe.tree import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with `section.field=value` overrides applied; values are YAML (`pretrain.steps=50`).

    Raises UserError, naming every wrong key or value, where the file is missing, not YAML, or not a valid recipe.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no recipe at {path}: give the path of a YAML file, such as recipes/demo.yaml") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: a recipe is a YAML file") from None
    except OSError as error:
        raise UserError(f"{path} may not be read ({error.strerror}): give a recipe of your own") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not sections: a recipe is a mapping like `pretrain: …`")
    for override in overrides:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(item) for item in error.errors())) from None


def dump_recipe(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML: every default spelled out, sections in the journey's order."""
    tree = recipe.model_dump(mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    if "\x85" in text:  # PyYAML writes this line separator bare and reads it back as a line break
        text = yaml.safe_dump(tree, sort_keys=False, width=110)
    return text


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"override {override!r} is not of the form section.field=value, such as pretrain.steps=50")
    node: Any = tree
    default: Any = Recipe().model_dump(mode="json")
    for part in parts[:-1]:
        default = default.get(part) if isinstance(default, dict) else None
        if isinstance(node, list):
            child = node[_index(part, node, override)]
        else:
            child = node.get(part)
            if child is None:
                # A list that the file leaves at its default is spelled out, so that one entry of it can be changed.
                child = node[part] = default if isinstance(default, list) else {}
        if not isinstance(child, dict | list):
            raise UserError(f"override {override!r}: {part} holds {child!r}, which has no field of its own")
        node = child
    parsed = _value(value, override)
    if isinstance(node, list):
        node[_index(parts[-1], node, override)] = parsed
    else:
        node[parts[-1]] = parsed


def _value(text: str, override: str) -> Any:
    """YAML, but for lists and mappings without brackets: `report.title=One: two` means the text."""
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML; put quotes round it") from None
    return parsed if not isinstance(parsed, dict | list) or text.lstrip().startswith(("{", "[")) else text


def _index(part: str, node: list[Any], override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"override {override!r}: {part!r} is no index of a list of {len(node)} entries")
    return int(part)


def _explain(item: Any) -> str:
    """One of pydantic's errors in a sentence; an unknown key comes with the nearest known one."""
    place = ".".join(str(part) for part in item["loc"]) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        near = get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {place}: {hint}"
    return f"{place}: {item['msg'].removeprefix('Value error, ')}"


def _fields_at(location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the section at a place of the recipe; of several kinds the one named in the place."""
    sections: list[type[BaseModel]] = [Recipe]
    for part in location:
        inner = [sections_of(s.model_fields[part].annotation) for s in sections if part in s.model_fields]
        sections = inner[0] if inner else [s for s in sections if kind_of(s) == part] or sections
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field's annotation holds, itself or inside a list or union; none for a plain field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in getattr(annotation, "__args__", ()) for section in sections_of(inner)]


def kind_of(section: type[BaseModel]) -> str:
    """The `type` that tells a section from the others of a union."""
    field = section.model_fields.get("type")
    return str(field.annotation.__args__[0]) if field is not None else ""  # type: ignore[union-attr]
