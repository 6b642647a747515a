"""What a recipe amounts to on one device: parameters by part, work and cache per token, memory, tokens of its stages.

From the recipe alone, in an instant, whether or not a device of that size exists: `sapience plan recipes/v3-671b.yaml` counts
DeepSeek-V3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapience.model.config_json import load_config
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
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import BatchSection, OptimizerSection
from sapience.run import resolve_model
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
    model: ModelSection
    """The recipe's, or that of the folder or run which it begins with."""
    stages: list[StagePlan]

    def record(self) -> dict[str, Any]:
        """For programs: `sapience plan --json`."""
        model = self.model
        count = count_parameters(model)
        length = self.stages[0].length if self.stages else model.max_position_embeddings
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
    """Count the pre-training and every phase of the extension, as far as the recipe has them.

    Where the recipe begins with a model of the user's own, that one is counted. Raises UserError where it is not there.
    """
    own = _own_model(recipe)
    model = recipe.model if own is None else load_config(resolve_model(own))
    stages = []
    pretrain, length = recipe.pretrain, recipe.pretrain.length
    if "pretrain" in recipe.stages:
        rows = sum(rows_of_steps(pretrain.batch, pretrain.steps))
        stages.append(_stage(model, "pretrain", pretrain.steps, rows, length, pretrain.batch, pretrain.optimizer))
    if "extend" in recipe.stages:
        if recipe.extend.model is not None:
            scaling = model.rope_scaling
            length = scaling.original_max_position_embeddings if scaling else model.max_position_embeddings
        for phase in recipe.extend.phases:
            name, rows = f"extend x{phase.factor}", sum(rows_of_steps(phase.batch, phase.steps))
            longer = phase.factor * length
            stages.append(_stage(model, name, phase.steps, rows, longer, phase.batch, recipe.extend.optimizer))
    return Plan(recipe, model, stages)


def _own_model(recipe: Recipe) -> str | None:
    """The model that the first training stage of the recipe is told to begin with."""
    beginnings = {
        "pretrain": recipe.pretrain.model,
        "extend": recipe.extend.model,
        "specialise": recipe.specialise.model,
        "finetune": recipe.finetune.model,
        "reward": recipe.reward.model,
        "reinforce": recipe.reinforce.model,
    }
    return next((own for stage, own in beginnings.items() if stage in recipe.stages), None)


def _stage(
    model: ModelSection, name: str, steps: int, rows: int, length: int, batch: BatchSection, optimizer: OptimizerSection
) -> StagePlan:
    tokens, micro = rows * length, min(batch.micro_rows, batch.rows) * length
    weights = ITEM * count_parameters(model).total
    memory = {
        "weights": weights,
        "gradients": weights,
        "optimizer": optimizer_bytes(model, optimizer),
        "activations": activation_bytes(model, micro),
    }
    memory["total"] = sum(memory.values())
    return StagePlan(name, steps, tokens, length, micro, tokens * training_operations(model, length), memory)
