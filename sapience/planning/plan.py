"""What a recipe amounts to on one device: parameters by part, work and cache per token, memory, tokens of its stages.

From the recipe alone, in an instant, whether or not a device of that size exists: `sapience plan recipes/v3-671b.yaml` counts
DeepSeek-V3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapience.planning.memory import ITEM, activation_bytes, optimizer_bytes
from sapience.planning.parameters import (
    cache_bytes,
    count_parameters,
    forward_operations,
    lookups,
    main_parts,
    prediction_parts,
    training_operations,
)
from sapience.recipe import Recipe
from sapience.recipe.optimization import BatchSection, OptimizerSection
from sapience.training.schedule import rows_of_steps


@dataclass(frozen=True)
class StagePlan:
    """A stage (or a phase of it) that trains on so many tokens of text."""

    name: str
    steps: int
    tokens: int
    length: int
    """Tokens of a row."""
    micro_batch_tokens: int
    operations: float
    """Floating-point operations of the whole stage."""
    memory: dict[str, int]
    """Bytes on one device: weights, gradients, optimizer, activations, total."""


@dataclass(frozen=True)
class Plan:
    """All that can be said from a recipe."""

    recipe: Recipe
    stages: list[StagePlan]

    def record(self) -> dict[str, Any]:
        """For programs: `sapience plan --json`."""
        model = self.recipe.model
        count = count_parameters(model)
        length = self.recipe.pretrain.length
        main, prediction = forward_operations(model, length)
        largest = max((stage.memory for stage in self.stages), key=lambda memory: memory["total"], default=None)
        return {
            "recipe": self.recipe.name,
            "parameters": {
                "main": count.main,
                "active": count.active,
                "active_without_embedding": count.active - lookups(model),
                "mtp": count.mtp,
                "mtp_active": count.mtp_active,
                "main_parts": main_parts(model),
                "mtp_parts": prediction_parts(model),
            },
            "flops_per_token": {
                "length": length,
                "forward_main": main,
                "forward_mtp": prediction,
                "training": training_operations(model, length),
            },
            "kv_cache_bytes_per_token": cache_bytes(model),
            "memory_bytes": largest or {},
            "stages": {
                stage.name: {
                    "steps": stage.steps,
                    "tokens": stage.tokens,
                    "length": stage.length,
                    "micro_batch_tokens": stage.micro_batch_tokens,
                    "flops": stage.operations,
                    "memory_bytes": stage.memory,
                }
                for stage in self.stages
            },
        }


def plan_recipe(recipe: Recipe) -> Plan:
    """Count the pre-training and every phase of the extension, as far as the recipe has them."""
    stages = []
    pretrain, length = recipe.pretrain, recipe.pretrain.length
    if "pretrain" in recipe.stages:
        rows = sum(rows_of_steps(pretrain.batch, pretrain.steps))
        stages.append(_stage(recipe, "pretrain", pretrain.steps, rows, length, pretrain.batch, pretrain.optimizer))
    if "extend" in recipe.stages:
        for phase in recipe.extend.phases:
            name, rows = f"extend x{phase.factor}", sum(rows_of_steps(phase.batch, phase.steps))
            longer = phase.factor * length
            stages.append(_stage(recipe, name, phase.steps, rows, longer, phase.batch, recipe.extend.optimizer))
    return Plan(recipe, stages)


def _stage(
    recipe: Recipe, name: str, steps: int, rows: int, length: int, batch: BatchSection, optimizer: OptimizerSection
) -> StagePlan:
    tokens, micro = rows * length, min(batch.micro_rows, batch.rows) * length
    weights = ITEM * count_parameters(recipe.model).total
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimizer": optimizer_bytes(recipe.model, optimizer),
        "activations": activation_bytes(recipe.model, micro),
    }
    memory["total"] = sum(memory.values())
    return StagePlan(name, steps, tokens, length, micro, tokens * training_operations(recipe.model, length), memory)
