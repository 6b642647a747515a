"""A reward of the user's own: a function in a file, `def brevity(question: str, answer: str) -> float`.

It runs in our process, since the user wrote it; what it raises or returns that is no number ends the run with a sentence
that names it, for a reward that is silently zero teaches nonsense.
"""

import hashlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

from sapience.recipe.errors import UserError

OwnReward = Callable[[str, str], float]
"""Question and answer -> worth, by rights from 0 to 1."""


def load_own_reward(name: str) -> OwnReward:
    """The function that `FILE.py:FUNCTION` names. Raises UserError where there is none."""
    place, _, function = name.rpartition(":")
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"the reward {name} names {path}, which does not exist: check the path in the recipe")
    spec = importlib.util.spec_from_file_location(f"reward_{hashlib.sha256(place.encode()).hexdigest()[:8]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"the reward {name}: {path} cannot be loaded ({type(error).__name__}: {error})") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(f"the reward {name}: {path} defines no function {function}")

    def reward(question: str, answer: str) -> float:
        try:
            value = float(found(question, answer))
        except Exception as error:
            raise UserError(
                f"the reward {name} failed ({type(error).__name__}: {error}) on the answer {answer[:200]!r}"
            ) from error
        if not math.isfinite(value):
            raise UserError(
                f"the reward {name} gave {value} for the answer {answer[:200]!r}: it has to be a finite number"
            )
        return value

    return reward
