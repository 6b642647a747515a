"""Which mixture a row of pre-training is drawn from."""

from sapience.corpus.shards import TokenShard
from sapience.pretraining.mixture import stretches
from sapience.recipe import Recipe
from sapience.training.schedule import StepPlan, plan_steps

SOURCES = [
    {"name": "one", "type": "files", "path": "x", "domain": "en", "weight": 2},
    {"name": "two", "type": "files", "path": "y", "domain": "zh", "weight": 1, "optional": True},
    {"name": "drills", "type": "drills", "documents": 10, "weight": 0.5},
]


def case(curriculum: list[dict[str, object]], steps: int = 100) -> tuple[Recipe, list[StepPlan]]:
    pretrain = {"steps": steps, "batch": {"rows": 10, "start_rows": 5, "ramp": 0.5}, "curriculum": curriculum}
    recipe = Recipe.model_validate({"corpus": {"sources": SOURCES}, "pretrain": pretrain})
    section = recipe.pretrain
    return recipe, plan_steps(steps, section.batch, section.schedule, section.balance, section.prediction)


def shards(*names: str) -> dict[str, TokenShard]:
    return dict.fromkeys(names)  # type: ignore[arg-type]  # only their names are looked at


def test_without_a_curriculum_there_is_one_mixture() -> None:
    recipe, plan = case([])
    assert stretches(recipe, shards("en", "zh", "drills"), plan) == [(0, {"en": 2, "zh": 1, "drills": 0.5})]


def test_stretches_end_at_their_share_of_the_rows_and_change_only_what_they_name() -> None:
    recipe, plan = case(
        [{"until": 0.2, "mixture": {"drills": 9}}, {"until": 0.5, "mixture": {"drills": 4, "en": 1}}],
    )
    rows = sum(step.rows for step in plan)
    assert stretches(recipe, shards("en", "zh", "drills"), plan) == [
        (0, {"en": 2, "zh": 1, "drills": 9}),
        (round(0.2 * rows), {"en": 1, "zh": 1, "drills": 4}),
        (round(0.5 * rows), {"en": 2, "zh": 1, "drills": 0.5}),
    ]


def test_an_optional_domain_that_was_not_to_be_had_is_in_no_stretch() -> None:
    recipe, plan = case([{"until": 0.2, "mixture": {"drills": 9, "zh": 3}}])
    assert [sorted(weights) for _, weights in stretches(recipe, shards("en", "drills"), plan)] == [["drills", "en"]] * 2
