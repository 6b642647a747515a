"""Whether a recipe's work can be spread over so many processes, said before any of it starts."""

from sapience.parallel.mesh import Plan, mesh_of
from sapience.parallel.schedule import Impossible
from sapience.recipe import Recipe, UserError
from sapience.training.schedule import rows_of_steps


def check_mesh(recipe: Recipe, processes: int) -> None:
    """Raises UserError where the recipe's `parallel` section does not fit its model, its batches or the processes."""
    section, pretrain = recipe.parallel, recipe.pretrain
    if processes == 1:
        if section.pipeline * section.expert * section.context > 1:
            raise UserError(
                f"parallel.pipeline={section.pipeline}, parallel.expert={section.expert} and parallel.context={section.context} "
                "are for several processes: start them with torchrun --nproc-per-node N -m sapience run …"
            )
        return
    try:
        rows = rows_of_steps(pretrain.batch, pretrain.steps)
        mesh_of(Plan(processes, section, recipe.model, rows, pretrain.batch.micro_rows))
    except Impossible as error:
        raise UserError(str(error)) from None
