"""How many tokens post-training will compute, from the recipe alone: rough, as all of planning is.

What samples will be there is not known before they are drawn, so a typical length stands for each kind of text; the
figures below were read off the demo, whose texts are short. Files of a user's own are not opened.
"""

from collections.abc import Set

from sapience.planning.parameters import training_operations
from sapience.recipe import Recipe
from sapience.recipe.policy import PolicySection
from sapience.recipe.supervised import SupervisedSection

SAMPLE_TOKENS = 55
"""Of a short conversation."""
WRITTEN = 880
"""Everyday conversations that come with sapience."""
DRAWN_SHARE = 0.5
"""Of the longest answer that an answer takes."""
DRAWING = 1.5
"""Seconds of drawing and judging for each second that learning from all drawn answers would take."""


def post_training_seconds(recipe: Recipe, stages: Set[str], rate: float) -> float:
    """On a machine that does `rate` operations a second."""
    seconds = 0.0
    policy = recipe.reinforce.policy
    if "specialise" in stages:
        for expert in recipe.specialise.experts.values():
            sets = len(expert.problems.families) + len(expert.problems.files)
            samples = (1 + recipe.specialise.reasoned) * sets * recipe.specialise.demonstrations
            seconds += _supervised(recipe, recipe.specialise.supervised, samples, rate)
            seconds += _policy(recipe, recipe.specialise.policy, rate)
    problems = recipe.specialise.all_problems()
    sets = len(problems.families) + len(problems.files)
    if "distill" in stages:
        answers = 2 * sets * recipe.distill.problems * recipe.distill.draws
        seconds += DRAWING * _tokens_seconds(recipe, answers * recipe.distill.answer_tokens * DRAWN_SHARE, rate)
    if "finetune" in stages:
        repeats = recipe.finetune.repeats
        reasoning = sets * recipe.distill.problems * (repeats.get("original", 1) + repeats.get("reasoned", 1))
        everyday = (WRITTEN + recipe.distill.generated) * repeats.get("everyday", 1) if "review" in stages else 0
        seconds += _supervised(recipe, recipe.finetune.supervised, everyday + reasoning, rate)
    if "reward" in stages:
        section = recipe.reward
        drawn = (section.problem_prompts + section.wishes) * section.draws * section.answer_tokens * DRAWN_SHARE
        learned = 2 * (section.problem_prompts + section.wishes) * section.epochs * SAMPLE_TOKENS
        seconds += _tokens_seconds(recipe, DRAWING * drawn + learned, rate)
    if "reinforce" in stages:
        seconds += _policy(recipe, policy, rate)
    return seconds


def _supervised(recipe: Recipe, section: SupervisedSection, samples: int, rate: float) -> float:
    return _tokens_seconds(recipe, samples * SAMPLE_TOKENS * section.epochs, rate)


def _policy(recipe: Recipe, section: PolicySection, rate: float) -> float:
    drawn = section.iterations * section.prompts * section.samples * section.answer_tokens * DRAWN_SHARE
    return (1 + DRAWING) * _tokens_seconds(recipe, drawn, rate)


def _tokens_seconds(recipe: Recipe, tokens: float, rate: float) -> float:
    return tokens * training_operations(recipe.model, recipe.pretrain.length) / rate
