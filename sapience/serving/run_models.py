"""Which run a model belongs to, with which other models of it one can talk, and what its recipe says of talking."""

from pathlib import Path

from sapience.recipe import load_recipe
from sapience.recipe.serve import DRAFT
from sapience.run import models_of

REWARD = "reward"
EXPERTS = "specialise/"


def run_of(model: Path) -> Path | None:
    """The run that a stage's model folder lies in, or None for a folder of its own."""
    whole = model.absolute()
    above = whole.parents[1:3] if whole.name == "model" else ()
    return next((folder for folder in above if (folder / "recipe.yaml").is_file()), None)


def name_of(model: Path) -> str:
    """What a model is called behind `RUN@`; its path where it lies in no run."""
    run = run_of(model)
    return model.absolute().parent.relative_to(run).as_posix() if run is not None else str(model)


def speaking_models(run: Path) -> dict[str, Path]:
    """Folders of the run's models by what stands behind `RUN@`, without the one that only gives scores."""
    return {name: run / name / "model" for name in models_of(run) if name != REWARD}


def reasoning_prompt(model: Path) -> str:
    """The system message behind which an expert was raised to reason; empty for any other model."""
    run = run_of(model)
    if run is None or not name_of(model).startswith(EXPERTS):
        return ""
    return load_recipe(run / "recipe.yaml").specialise.system_prompt


def drafted_ahead(model: Path, asked: int | None = None) -> int:
    """Tokens that a model's prediction module is to draft ahead: as asked, else what its run's recipe says.

    Raises UserError where the recipe has to be asked and cannot be read.
    """
    if asked is not None:
        return asked
    run = run_of(model)
    return DRAFT if run is None else load_recipe(run / "recipe.yaml").serve.draft
