"""The recipe: the typed document a run is made from. Importable without torch, in a blink."""

from sapience.recipe.errors import UserError
from sapience.recipe.loading import dump_recipe, load_recipe
from sapience.recipe.tree import Recipe

__all__ = ["Recipe", "UserError", "dump_recipe", "load_recipe"]
