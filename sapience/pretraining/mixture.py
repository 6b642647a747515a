"""Which token shards a stage trains on, and in what proportion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sapience.corpus.shards import TokenShard
from sapience.recipe import Recipe
from sapience.training.schedule import StepPlan


def open_shards(tokenizer_folder: Path) -> dict[str, TokenShard]:
    """The token shards of a tokenizer stage by domain."""
    names = sorted(path.stem for path in (tokenizer_folder / "tokens").glob("*.bin"))
    return {name: TokenShard.open(tokenizer_folder / "tokens" / name) for name in names}


def mixture(recipe: Recipe, shards: Mapping[str, TokenShard]) -> dict[str, float]:
    """Share of the rows by domain: the stage's own, or the corpus section's weights.

    A domain all of whose sources are optional and were not to be had on this machine is left out; any other domain
    without a shard stays, so that the token stream refuses it.
    """
    return _available(dict(recipe.pretrain.mixture) or recipe.corpus.weights(), recipe, shards)


def stretches(
    recipe: Recipe, shards: Mapping[str, TokenShard], plan: Sequence[StepPlan]
) -> list[tuple[int, dict[str, float]]]:
    """First row and weights of every stretch of pre-training: the curriculum's, then the mixture itself."""
    rows = plan[-1].first_row + plan[-1].rows
    steady = mixture(recipe, shards)
    found, begin = [], 0
    for stretch in recipe.pretrain.curriculum:
        found.append((begin, steady | _available(stretch.mixture, recipe, shards)))
        begin = round(stretch.until * rows)
    return [*found, (begin, steady)]


def _available(weights: Mapping[str, float], recipe: Recipe, shards: Mapping[str, TokenShard]) -> dict[str, float]:
    """Without the optional domains that were not to be had on this machine."""
    absent = recipe.corpus.optional_domains() - set(shards)
    return {name: weight for name, weight in weights.items() if name not in absent}
