"""What a recipe will need, in minutes, memory and disk, and the refusal where a machine does not have it.

Rough on purpose: a run of an hour must not be refused for a guess, so only memory and disk are checked, with what is
certainly needed; the time is said, not enforced. The time rests on one measured rate, of the demo's own kind of model
on a CPU; how long a GPU takes is not estimated, and what it has to hold may be counted a third too high.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sapience.planning.failures import REMEDIES
from sapience.planning.machine import Machine
from sapience.planning.memory import ITEM, gpu_bytes, one_process, training_memory
from sapience.planning.mesh import plan_for
from sapience.planning.parameters import count_parameters, training_operations
from sapience.planning.post_training import post_training_seconds
from sapience.recipe import Recipe, UserError
from sapience.recipe.extend import ExtendSection, PhaseSection
from sapience.recipe.policy import PolicySection
from sapience.recipe.pretrain import PretrainSection
from sapience.recipe.reward import RewardSection
from sapience.recipe.supervised import SupervisedSection

Training = PretrainSection | ExtendSection | SupervisedSection | RewardSection | PolicySection
OPERATIONS_PER_SECOND = 31e9
"""Of one CPU core on the demo's model, forward to optimizer step, in float32; see `training_operations`."""
CORES_POWER = 0.8
"""Two cores are 1.74 times as fast as one; each further doubling brings no more than that."""
MOST_CORES = 16
PROCESS_BYTES = 700 << 20
"""Python with torch and the tokenizer, before any tensor."""
CORPUS_BYTES = 900 << 20
"""Most that reading, cleaning and deduplicating a demo-sized corpus takes."""
MIB = 1 << 20


@dataclass(frozen=True)
class Needs:
    """Estimates for the stages that the recipe names."""

    minutes: float | None
    """On the CPU, with as many cores as were given; None where a GPU trains."""
    memory_bytes: int
    disk_bytes: int
    gpu_bytes: int = 0
    """Of a GPU's memory, where one trains."""
    largest: str | None = None
    """The training stage that takes most memory."""

    def sentence(self) -> str:
        """For the person who starts the run."""
        if self.minutes is None:
            return (
                f"This will take about {_gib(self.gpu_bytes)} of a GPU's memory, {_gib(self.memory_bytes)} of memory and "
                f"{_gib(self.disk_bytes)} of disk."
            )
        time = "a minute" if self.minutes < 1.5 else f"{round(self.minutes)} minutes"
        return (
            f"This will take about {time} here, {_gib(self.memory_bytes)} of memory and "
            f"{_gib(self.disk_bytes)} of disk."
        )


def needs_of(recipe: Recipe, cores: int = 2, gpu: bool = False, processes: int = 1, here: int | None = None) -> Needs:
    """Estimate from the recipe alone; works without torch and touches no file. With `gpu` trainings run on one, or each of
    `processes` on its own; `here` of them, by default all, are on this machine."""
    stages = set(recipe.stages)
    weights = count_parameters(recipe.model).total
    base, disk, seconds = PROCESS_BYTES, 50 * MIB, 10.0
    team = _Team(processes, min(processes, here or processes), gpu)
    memory: dict[str, int] = {}

    if stages & {"corpus", "tokenizer"}:
        base, disk, seconds = CORPUS_BYTES, disk + 300 * MIB, seconds + 60.0
    rate = OPERATIONS_PER_SECOND * min(cores, MOST_CORES) ** CORES_POWER
    if "pretrain" in stages:
        section = recipe.pretrain
        tokens = section.steps * section.batch.rows * section.length
        seconds += tokens * training_operations(recipe.model, section.length) / rate
        memory["pretrain"] = team.shared(recipe, section, section, section.length)
        disk += (section.keep_checkpoints + 1) * 12 * weights + 4 * weights
    if "extend" in stages:
        for phase in recipe.extend.phases:
            length = phase.factor * recipe.pretrain.length
            tokens = phase.steps * phase.batch.rows * length
            seconds += tokens * training_operations(recipe.model, length) / rate
            held = team.shared(recipe, recipe.extend, phase, length)
            memory["extend"] = max(memory.get("extend", 0), held)
        disk += (recipe.extend.keep_checkpoints + 1) * 12 * weights + 4 * weights
    seconds += post_training_seconds(recipe, stages, rate)
    for name, (training, length, rows, kept) in _post_training_shapes(recipe).items():
        if name in stages:
            memory[name] = team.alone(recipe, training, rows, length)
            disk += (kept + 1) * 12 * weights + 4 * weights
    if "evaluate" in stages:
        seconds += 20.0 + 10.0 * len({"pretrain", "extend", "specialise", "finetune", "reinforce"} & stages)
    largest = max(memory, key=lambda stage: memory[stage], default=None)
    if largest is None:
        return Needs(seconds / 60, base, int(disk))
    if gpu:
        # Every process makes the model in this machine's memory first, whole.
        held = team.here * (PROCESS_BYTES + ITEM * weights)
        return Needs(None, max(base, held), int(disk), memory[largest], largest)
    return Needs(seconds / 60, max(base, memory[largest]), int(disk), largest=largest)


@dataclass(frozen=True)
class _Team:
    """Who trains."""

    processes: int
    here: int
    gpu: bool

    def shared(
        self,
        recipe: Recipe,
        section: PretrainSection | ExtendSection,
        phase: PretrainSection | PhaseSection,
        length: int,
    ) -> int:
        """Of a GPU's memory, or of this machine's for all processes here, for a stage that they share."""
        # How a model of the user's own is divided is not known here.
        own = recipe.pretrain.model is not None or section.model is not None
        processes = 1 if own else self.processes
        plan = replace(plan_for(recipe, recipe.model, section, phase, processes), precision=self._precision(section))
        memory = training_memory(plan, section.optimizer, length, section.recompute)
        if processes == 1:
            return self._held(memory)
        # The leader puts the whole model together again beside its part, without activations, to look at it.
        weights = (ITEM + 2 * (memory["copies"] > 0)) * count_parameters(recipe.model).total
        leader = memory | {"total": memory["total"] - memory["activations"] + weights}
        most = max(self._held(memory), self._held(leader))
        return most if self.gpu else most + (self.here - 1) * self._held(memory)

    def alone(self, recipe: Recipe, section: Training, rows: int, length: int) -> int:
        """For a stage that one process makes."""
        return self._held(one_process(recipe.model, section.optimizer, self._precision(section), rows, length))

    def _held(self, memory: dict[str, int]) -> int:
        return gpu_bytes(memory) if self.gpu else PROCESS_BYTES + memory["total"]

    def _precision(self, section: Training) -> str:
        return "bf16" if self.gpu and section.precision == "auto" else section.precision


def _post_training_shapes(recipe: Recipe) -> dict[str, tuple[Training, int, int, int]]:
    """Stage -> the section, tokens of a row, rows at once and checkpoints kept of its largest training."""
    supervised, policy = recipe.finetune.supervised, recipe.reinforce.policy
    expert, reward = recipe.specialise.supervised, recipe.reward
    models = 2 * len(recipe.specialise.experts)
    return {
        "specialise": (expert, expert.length, expert.batch.micro_rows, models * expert.keep_checkpoints),
        "finetune": (supervised, supervised.length, supervised.batch.micro_rows, supervised.keep_checkpoints),
        "reward": (reward, min(reward.length, 512), 2 * reward.micro_pairs, reward.keep_checkpoints),
        "reinforce": (policy, policy.micro_tokens, 1, policy.keep_checkpoints),
    }


def check_before(recipe: Recipe, machine: Machine, need: Needs) -> None:
    """Raises UserError where the machine has less memory or disk than the recipe needs."""
    largest = max((gpu.memory_bytes for gpu in machine.gpus), default=0)
    if need.gpu_bytes > largest:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.gpu_bytes)} of a GPU's memory in stage {need.largest}, and it has "
            f"{_gib(largest)}: {_remedy(need)}, or start with --force, since this may be a third too much"
        )
    if need.memory_bytes > machine.memory_available_bytes:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.memory_bytes)} of memory and "
            f"{_gib(machine.memory_available_bytes)} is free: close other programs, raise the container's limit, or "
            + ("take a smaller model or fewer processes here" if need.gpu_bytes else _remedy(need))
        )
    if need.disk_bytes > machine.disk_free_bytes:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.disk_bytes)} of disk and {_gib(machine.disk_free_bytes)} "
            f"is free at {machine.folder}: free some space, choose another folder, or lower pretrain.keep_checkpoints"
        )


def _remedy(need: Needs) -> str:
    return f"{REMEDIES[need.largest]}, or take a smaller model" if need.largest else "take another machine"


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
