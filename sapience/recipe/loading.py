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
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"override {override!r} is not of the form section.field=value, such as pretrain.steps=50")
    node: Any = tree
    for part in parts[:-1]:
        if isinstance(node, list):
            node = node[_index(part, node, override)]
            continue
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict | list):
            raise UserError(f"override {override!r}: {part} holds {child!r}, which has no field of its own")
        node = child
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML; put quotes round it") from None
    if isinstance(node, list):
        node[_index(parts[-1], node, override)] = parsed
    else:
        node[parts[-1]] = parsed


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
    section: Any = Recipe
    for part in location:
        fields = getattr(section, "model_fields", {})
        if part in fields:
            section = section_of(fields[part].annotation)
    return list(getattr(section, "model_fields", {}))


def section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = section_of(inner)
        if found is not None:
            return found
    return None
