"""What several processes cannot share is said for the stage that it is about, before anything starts."""

from typing import Any

import pytest

from sapience.planning.mesh import check_mesh
from sapience.recipe import Recipe, UserError

CUT = {"shard_weights": True}


def recipe_of(**sections: Any) -> Recipe:
    return Recipe.model_validate(sections)


@pytest.mark.parametrize("section", [{"optimizer": {"name": "muon"}}, {"precision": "fp8"}])
def test_weights_that_must_be_whole_are_asked_for_stage_by_stage(section: dict[str, Any]) -> None:
    for stage, other in (("pretrain", "extend"), ("extend", "pretrain")):
        recipe = recipe_of(parallel=CUT, **{stage: section})
        check_mesh(recipe, 2, [other])
        check_mesh(recipe, 1, [stage])  # nothing to cut
        with pytest.raises(
            UserError, match=r"^parallel.shard_weights .* whole matrices .*, or parallel.shard_weights=false$"
        ):
            check_mesh(recipe, 2, [stage])
    recipe = recipe_of(parallel={"extend": CUT}, extend=section, pretrain=section)
    check_mesh(recipe, 2, ["pretrain"])
    with pytest.raises(UserError, match=r"parallel.extend.shard_weights=false$"):
        check_mesh(recipe, 2, ["pretrain", "extend"])
