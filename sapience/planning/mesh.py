"""How a recipe's stages would be spread over so many processes, and whether they can be, said before any of it starts."""

from collections.abc import Collection

from sapience.parallel.mesh import Plan, mesh_of
from sapience.parallel.schedule import Impossible
from sapience.recipe import Recipe, UserError
from sapience.recipe.extend import ExtendSection, PhaseSection
from sapience.recipe.model import ModelSection
from sapience.recipe.parallel import LayoutSection
from sapience.recipe.pretrain import PretrainSection
from sapience.training.schedule import rows_of_steps

Spreadable = PretrainSection | ExtendSection


def check_mesh(recipe: Recipe, processes: int, stages: Collection[str]) -> None:
    """Raises UserError where the recipe's `parallel` section does not fit its model, its batches or the processes that make
    these stages. A model of the user's own is not looked at here."""
    pretrain, extend = recipe.pretrain, recipe.extend
    asked: list[tuple[Spreadable, PretrainSection | PhaseSection]] = []
    own = pretrain.model is not None
    if "pretrain" in stages and not own:
        asked.append((pretrain, pretrain))
    if "extend" in stages and not own and extend.model is None:
        asked += [(extend, phase) for phase in extend.phases]
    for section, phase in asked:
        name, layout = _layout(recipe, section)
        if processes > 1:
            check_plan(plan_for(recipe, recipe.model, section, phase, processes))
        elif layout.pipeline * layout.expert * layout.context > 1:
            raise UserError(
                f"{name}.pipeline={layout.pipeline}, {name}.expert={layout.expert} and {name}.context={layout.context} are "
                "for several processes: start them with torchrun --nproc-per-node N -m sapience run …"
            )


def plan_for(
    recipe: Recipe, model: ModelSection, section: Spreadable, phase: PretrainSection | PhaseSection, processes: int
) -> Plan:
    """A stage, or a phase of it, with this model on so many processes; one process does all of it, whatever the layout."""
    name, layout = _layout(recipe, section) if processes > 1 else ("parallel", LayoutSection())
    rows, method = rows_of_steps(phase.batch, phase.steps), (section.optimizer.name, section.precision)
    return Plan(processes, layout, model, rows, phase.batch.micro_rows, name, *method)


def check_plan(plan: Plan) -> None:
    """Raises UserError, with all that is wrong, where this cannot be."""
    try:
        mesh_of(plan)
    except Impossible as error:
        raise UserError(str(error)) from None


def _layout(recipe: Recipe, section: Spreadable) -> tuple[str, LayoutSection]:
    """The layout of a stage, and what the recipe calls it."""
    own = recipe.parallel.extend if isinstance(section, ExtendSection) else None
    return ("parallel", recipe.parallel) if own is None else ("parallel.extend", own)
