"""A training's model and rows, for one process or for several that share them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop, StepExecutor
from sapience.parallel.mesh import Mesh, Plan, cut, mesh_of
from sapience.parallel.schedule import Impossible
from sapience.parallel.spread import Spread, spread
from sapience.recipe import UserError
from sapience.recipe.compute import ComputeSection
from sapience.recipe.extend import ExtendSection
from sapience.recipe.parallel import LayoutSection
from sapience.recipe.pretrain import PretrainSection
from sapience.training.device import choose_device, chosen_precision, placed
from sapience.training.objective import NextTokens
from sapience.training.optimizer import Shared


@dataclass(frozen=True)
class SharedTraining:
    """What a `Training` needs to know of it."""

    model: Transformer
    """This process's part, on its device."""
    executor: StepExecutor
    spread: Spread | None
    """None in a process that is alone."""
    cut: Callable[[int], Sequence[int]] | None
    """Rows of a step -> rows of its micro-batches; None for as few as there can be."""
    compute: ComputeSection

    @property
    def optimized(self) -> Shared | None:
        """What the optimizer asks about the others."""
        return None if self.spread is None else self.spread.executor

    def whole_model(self) -> Transformer | None:
        """The model, put together again on the process that writes; None on others."""
        if self.spread is None:
            return self.model
        whole = self.spread.whole_model()
        return None if whole is None else placed(whole, self.compute.model_copy(update={"compiled": False}))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.spread is not None:
            self.spread.wait()


def share_training(
    model: Transformer,
    objective: NextTokens,
    section: PretrainSection | ExtendSection,
    rows: Sequence[int],
    micro_rows: int,
    layout: LayoutSection,
    team: Any,
) -> SharedTraining:
    """The model, not yet placed, is cut down to this process's part where a team (`parallel.team.Team`) shares it. `rows` are
    those of all steps. Raises UserError where they cannot be shared like that."""
    if team is None:
        alone = cut(max(rows, default=micro_rows), micro_rows, Mesh(1, 1, 1), layout)
        model = placed(model, section, set(alone))
        return SharedTraining(model, PlainLoop(model, objective), None, None, section)
    try:
        method = {"optimizer": section.optimizer.name, "precision": section.precision}
        plan = Plan(team.size, layout, model.config, rows, micro_rows, **method)
        mesh = mesh_of(plan)
    except Impossible as error:
        raise UserError(str(error)) from None
    first = len(cut(rows[0] if rows else plan.full_step, micro_rows, mesh, layout))
    sizes = set(cut(plan.full_step, micro_rows, mesh, layout))
    device = choose_device(section.device)
    narrow = chosen_precision(section, device) == "bf16"
    shared = spread(model, objective, mesh, layout, first, device, narrow)
    model = placed(model, section, sizes)
    return SharedTraining(model, shared.executor, shared, lambda rows: cut(rows, micro_rows, mesh, layout), section)
