"""What a recipe will need, in minutes, memory and disk, and the refusal where a machine does not have it.

Rough on purpose: a run of an hour must not be refused for a guess, so only memory and disk are checked, with what is
certainly needed; the time is said, not enforced. The time rests on one measured rate, of the demo's own kind of model
on a CPU; how long a GPU takes is not estimated, and what it has to hold may be counted a third too high.
"""

from __future__ import annotations

from dataclasses import dataclass

from sapience.planning.machine import Machine
from sapience.planning.memory import activation_bytes, gpu_bytes
from sapience.planning.parameters import count_parameters, training_operations
from sapience.planning.post_training import post_training_seconds
from sapience.recipe import Recipe, UserError
from sapience.recipe.extend import ExtendSection
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
    """Of the GPU's memory, where one trains."""

    def sentence(self) -> str:
        """For the person who starts the run."""
        if self.minutes is None:
            return (
                f"This will take about {_gib(self.gpu_bytes)} of the GPU's memory, {_gib(self.memory_bytes)} of memory and "
                f"{_gib(self.disk_bytes)} of disk."
            )
        time = "a minute" if self.minutes < 1.5 else f"{round(self.minutes)} minutes"
        return (
            f"This will take about {time} here, {_gib(self.memory_bytes)} of memory and "
            f"{_gib(self.disk_bytes)} of disk."
        )


def needs_of(recipe: Recipe, cores: int = 2, gpu: bool = False) -> Needs:
    """Estimate from the recipe alone; works without torch and touches no file. With `gpu` trainings run on one."""
    stages = set(recipe.stages)
    weights = count_parameters(recipe.model).total
    base, memory, disk, seconds = PROCESS_BYTES, 0, 50 * MIB, 10.0

    def held(section: Training, rows: int, length: int) -> int:
        if gpu:
            return gpu_bytes(recipe.model, section.optimizer, section.precision, rows * length)
        return _training_bytes(recipe, rows, length)

    if stages & {"corpus", "tokenizer"}:
        base, disk, seconds = CORPUS_BYTES, disk + 300 * MIB, seconds + 60.0
    rate = OPERATIONS_PER_SECOND * min(cores, MOST_CORES) ** CORES_POWER
    if "pretrain" in stages:
        section = recipe.pretrain
        tokens = section.steps * section.batch.rows * section.length
        seconds += tokens * training_operations(recipe.model, section.length) / rate
        memory = max(memory, held(section, section.batch.micro_rows, section.length))
        disk += (section.keep_checkpoints + 1) * 12 * weights + 4 * weights
    if "extend" in stages:
        for phase in recipe.extend.phases:
            length = phase.factor * recipe.pretrain.length
            tokens = phase.steps * phase.batch.rows * length
            seconds += tokens * training_operations(recipe.model, length) / rate
            memory = max(memory, held(recipe.extend, phase.batch.micro_rows, length))
        disk += (recipe.extend.keep_checkpoints + 1) * 12 * weights + 4 * weights
    seconds += post_training_seconds(recipe, stages, rate)
    for name, (training, length, rows, kept) in _post_training_shapes(recipe).items():
        if name in stages:
            memory = max(memory, held(training, rows, length))
            disk += (kept + 1) * 12 * weights + 4 * weights
    if "evaluate" in stages:
        seconds += 20.0 + 10.0 * len({"pretrain", "extend", "specialise", "finetune", "reinforce"} & stages)
    if gpu and memory:
        return Needs(None, base, int(disk), int(memory))
    return Needs(seconds / 60, max(base, int(memory)), int(disk))


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


def _training_bytes(recipe: Recipe, rows: int, length: int) -> int:
    """Weights, gradients and two moments (16 bytes a weight), and what a micro-batch keeps for its backward pass."""
    return PROCESS_BYTES + 16 * count_parameters(recipe.model).total + activation_bytes(recipe.model, rows * length)


def check_before(recipe: Recipe, machine: Machine, need: Needs) -> None:
    """Raises UserError where the machine has less memory or disk than the recipe needs."""
    largest = max((gpu.memory_bytes for gpu in machine.gpus), default=0)
    if need.gpu_bytes > largest:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.gpu_bytes)} of a GPU's memory, which has {_gib(largest)}: lower "
            "pretrain.batch.micro_rows or the model's sizes, or start with --force, since this may be a third too much"
        )
    if need.memory_bytes > machine.memory_available_bytes:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.memory_bytes)} of memory and "
            f"{_gib(machine.memory_available_bytes)} is free: close other programs, raise the container's limit, or "
            "lower pretrain.batch.micro_rows and model sizes"
        )
    if need.disk_bytes > machine.disk_free_bytes:
        raise UserError(
            f"recipe '{recipe.name}' needs about {_gib(need.disk_bytes)} of disk and {_gib(machine.disk_free_bytes)} "
            f"is free at {machine.folder}: free some space, choose another folder, or lower pretrain.keep_checkpoints"
        )


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
