"""Which rank has what, and which combinations there cannot be.

Ranks are counted with the pipeline's place outermost: data-parallel neighbours, which exchange tokens and gradients, are
neighbours on a node; a pipeline's ranks, which send each other least, are far apart. `RULES` is the table of what is
impossible; it is checked before any process starts, and it is the documentation. No torch here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sapience.parallel.schedule import Impossible
from sapience.parallel.schedules import SCHEDULES
from sapience.recipe.model import ModelSection
from sapience.recipe.parallel import LayoutSection


@dataclass(frozen=True)
class Mesh:
    """The dimensions: pipeline × data ranks, and within data, groups of `expert` that have the experts between them and groups
    of `context` that have the places of rows between them."""

    pipeline: int
    data: int
    expert: int
    context: int = 1

    @property
    def ranks(self) -> int:
        return self.pipeline * self.data

    @property
    def readers(self) -> int:
        """Data-parallel groups that have rows of their own."""
        return self.data // self.context

    def place(self, rank: int) -> int:
        """Within its pipeline."""
        return rank // self.data

    def replica(self, rank: int) -> int:
        """Its pipeline, among all."""
        return rank % self.data

    def pipelines(self) -> list[list[int]]:
        """The ranks of each, in order."""
        return [[place * self.data + replica for place in range(self.pipeline)] for replica in range(self.data)]

    def data_groups(self) -> list[list[int]]:
        """The ranks at each place."""
        return [[place * self.data + replica for replica in range(self.data)] for place in range(self.pipeline)]

    def expert_groups(self) -> list[list[int]]:
        """The ranks that have the experts of a layer between them: neighbours."""
        return self._neighbours(self.expert)

    def context_groups(self) -> list[list[int]]:
        """The ranks that have rows between them: neighbours."""
        return self._neighbours(self.context)

    def _neighbours(self, size: int) -> list[list[int]]:
        return [group[start : start + size] for group in self.data_groups() for start in range(0, self.data, size)]

    def same_experts(self) -> list[list[int]]:
        """The ranks that have the same experts."""
        return [group[start :: self.expert] for group in self.data_groups() for start in range(self.expert)]


def zig_zag(rank: int, ranks: int) -> tuple[int, int]:
    """The pieces of a row that one of so many ranks that share it has, of twice as many: one from either end, so that all have
    the same share of causal attention."""
    return rank, 2 * ranks - 1 - rank


@dataclass(frozen=True)
class Plan:
    """What is to be spread."""

    ranks: int
    parallel: LayoutSection
    model: ModelSection
    rows: Sequence[int]
    """Of a step; every number that comes up."""
    micro_rows: int
    """That go through the model at once, at most."""
    name: str = "parallel"
    """Of the layout in the recipe, for those who are to change it."""
    optimizer: str = "adamw"
    precision: str = "auto"
    """Both of the stage that is shared, as its recipe names them."""

    @property
    def full_step(self) -> int:
        """Rows of the largest step; without steps any number that can be cut would do."""
        return max(self.rows, default=2 * self.micro_rows * self.ranks)

    @property
    def data(self) -> int:
        return max(1, self.ranks // self.parallel.pipeline)

    @property
    def mesh(self) -> Mesh:
        section = self.parallel
        return Mesh(section.pipeline, self.data, section.expert, min(section.context, self.data))

    @property
    def stages(self) -> int:
        twice = self.parallel.schedule in ("interleaved", "dualpipev") and self.parallel.pipeline > 1
        return self.parallel.pipeline * (2 if twice else 1)


@dataclass(frozen=True)
class Rule:
    """Something that cannot be."""

    text: str
    """As the documentation has it."""
    broken: Callable[[Plan], str | None]
    """Why it is, in this plan, and what to change; None where it is kept."""


def _ranks(plan: Plan) -> str | None:
    if plan.ranks % plan.parallel.pipeline:
        return f"{plan.ranks} processes are no multiple of {plan.name}.pipeline={plan.parallel.pipeline}"
    return None


def _of_data(dimension: Literal["expert", "context"], plan: Plan) -> str | None:
    wanted = getattr(plan.parallel, dimension)
    if plan.data % wanted:
        return (
            f"{plan.data} data-parallel ranks ({plan.ranks} processes, {plan.name}.pipeline={plan.parallel.pipeline}) are no "
            f"multiple of {plan.name}.{dimension}={wanted}"
        )
    return None


def _experts(plan: Plan) -> str | None:
    experts, ranks = plan.model.n_routed_experts, plan.parallel.expert
    if experts % ranks:
        return f"model.n_routed_experts={experts} is no multiple of {plan.name}.expert={ranks}"
    return None


def _layers(plan: Plan) -> str | None:
    layers, given = plan.model.num_hidden_layers, plan.parallel.stage_layers
    if plan.stages > layers:
        return f"{plan.stages} stages ({plan.parallel.schedule}) need as many layers, and the model has {layers}"
    if given is not None and (len(given) != plan.stages or sum(given) != layers or min(given) < 1):
        return f"{plan.name}.stage_layers={given} are not {layers} layers in {plan.stages} stages of at least one"
    return None


def _whole_step(plan: Plan) -> str | None:
    if plan.parallel.shard_weights and plan.parallel.pipeline > 1:
        return (
            f"{plan.name}.shard_weights and {plan.name}.pipeline={plan.parallel.pipeline} exclude each other, as every "
            f"micro-batch would gather all weights again: set {plan.name}.pipeline=1, or {plan.name}.shard_weights=false"
        )
    return None


def _rows_of_weights(plan: Plan) -> str | None:
    if plan.parallel.shard_weights and plan.optimizer == "muon":
        return (
            f"{plan.name}.shard_weights leaves no rank the whole matrices that Muon needs: set optimizer.name=adamw, or "
            f"{plan.name}.shard_weights=false"
        )
    if plan.parallel.shard_weights and plan.precision == "fp8":
        return (
            f"{plan.name}.shard_weights leaves no rank the whole matrices that FP8 blocks are made of: set precision=bf16, or "
            f"{plan.name}.shard_weights=false"
        )
    return None


def _microbatches(plan: Plan) -> str | None:
    try:
        for rows in sorted(set(plan.rows)):
            cut(rows, plan.micro_rows, plan.mesh, plan.parallel)
    except Impossible as error:
        return str(error)
    return None


RULES = (
    Rule("The number of processes is a multiple of `pipeline`; the quotient is the number of data-parallel ranks.", _ranks),
    Rule("The number of data-parallel ranks is a multiple of `expert`.", partial(_of_data, "expert")),
    Rule("The number of data-parallel ranks is a multiple of `context`.", partial(_of_data, "context")),
    Rule("The number of routed experts is a multiple of `expert`.", _experts),
    Rule("Every stage has at least one layer; `interleaved` and `dualpipev` have two stages a rank.", _layers),
    Rule("`shard_weights` goes without pipelines, each of whose micro-batches would gather all weights again; V3's go with "
         "ZeRO-1.", _whole_step),
    Rule("`shard_weights` goes with AdamW, and not in FP8: Muon and FP8 blocks are made of whole matrices.", _rows_of_weights),
    Rule("A step has enough rows for equal numbers of micro-batches on all data-parallel ranks, as many as the schedule asks "
         "for: `interleaved` a multiple of `pipeline`, `zb1p` at least `pipeline`, `dualpipe` and `dualpipev` at least twice "
         "that, `dualpipe` an even number on an even number of ranks.", _microbatches),
)  # fmt: skip


def mesh_of(plan: Plan) -> Mesh:
    """The plan's mesh. Raises Impossible, with all that is wrong, where there is none."""
    reasons = [reason for rule in RULES if (reason := rule.broken(plan)) is not None]
    if reasons:
        raise Impossible("; ".join(reasons))
    return plan.mesh


def cut(rows: int, micro_rows: int, mesh: Mesh, section: LayoutSection) -> list[int]:
    """Rows of each of a step's micro-batches: as few micro-batches of at most `micro_rows` as the mesh can share out.

    Raises Impossible where there are too few rows for that.
    """
    if mesh.ranks == 1:
        return [min(micro_rows, rows - start) for start in range(0, rows, micro_rows)]
    schedule, reason = SCHEDULES[section.schedule], ""
    for each in range(max(1, -(-rows // (micro_rows * mesh.readers))), rows // mesh.readers + 1):
        try:
            if mesh.pipeline > 1:
                schedule(mesh.pipeline, each)
        except Impossible as error:
            reason = f" ({error})"
            continue
        count = each * mesh.readers
        return [rows // count + (place < rows % count) for place in range(count)]
    raise Impossible(
        f"a step of {rows} rows cannot be cut into micro-batches for {mesh.readers} data-parallel ranks{reason}: raise "
        "batch.rows (and start_rows) or batch.micro_rows, or choose another parallel.schedule"
    )
