"""Every recipe that comes with the project is valid, under its own name, and survives being written and read again."""

from pathlib import Path
from typing import get_args

import pytest

from sapience.recipe import dump_recipe, load_recipe
from sapience.recipe.tree import StageName

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_its_resolved_form_means_the_same(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert recipe.name == path.stem, "the run directory should be found under the recipe's name"


def test_the_ci_recipe_makes_the_whole_journey_from_text_that_every_machine_has() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "ci.yaml")
    assert recipe.stages == list(get_args(StageName))
    assert {source.type for source in recipe.corpus.sources} == {"installed", "problems", "lookup", "drills"}


def test_ones_own_model_needs_no_pretraining() -> None:
    recipe = load_recipe(Path(__file__).parent.parent / "recipes" / "extend-own-model.yaml")
    assert "pretrain" not in recipe.stages and recipe.extend.model is not None and recipe.tokenizer.path is not None
