"""Whether a recipe's work can be spread over so many processes, said before any of it starts."""

from collections.abc import Collection, Sequence

from sapience.parallel.mesh import Plan, mesh_of
from sapience.parallel.schedule import Impossible
from sapience.recipe import Recipe, UserError
from sapience.recipe.extend import ExtendSection
from sapience.recipe.optimization import BatchSection
from sapience.recipe.parallel import LayoutSection
from sapience.recipe.pretrain import PretrainSection
from sapience.training.schedule import rows_of_steps


def check_mesh(recipe: Recipe, processes: int, stages: Collection[str]) -> None:
    """Raises UserError where the recipe's `parallel` section does not fit its model, its batches or the processes that make
    these stages. A model of the user's own is not looked at here."""
    pretrain, extend = recipe.pretrain, recipe.extend
    own = pretrain.model is not None
    if "pretrain" in stages and not own:
        _check("parallel", recipe, recipe.parallel, processes, pretrain, [(pretrain.batch, pretrain.steps)])
    if "extend" in stages and not own and extend.model is None:
        phases = [(phase.batch, phase.steps) for phase in extend.phases]
        _check(recipe.parallel.extending_name, recipe, recipe.parallel.extending, processes, extend, phases)


def _check(
    name: str,
    recipe: Recipe,
    layout: LayoutSection,
    processes: int,
    stage: PretrainSection | ExtendSection,
    batches: Sequence[tuple[BatchSection, int]],
) -> None:
    if processes == 1:
        if layout.pipeline * layout.expert * layout.context > 1:
            raise UserError(
                f"{name}.pipeline={layout.pipeline}, {name}.expert={layout.expert} and {name}.context={layout.context} are "
                "for several processes: start them with torchrun --nproc-per-node N -m sapience run …"
            )
        return
    try:
        for batch, steps in batches:
            rows, method = rows_of_steps(batch, steps), (stage.optimizer.name, stage.precision)
            mesh_of(Plan(processes, layout, recipe.model, rows, batch.micro_rows, name, *method))
    except Impossible as error:
        raise UserError(str(error)) from None
