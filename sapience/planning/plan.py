"""What a recipe amounts to, on one device or many: parameters by part, work and cache per token, memory, tokens of stages.

From the recipe alone, in an instant, whether or not devices of that size exist: `sapience plan recipes/v3-671b.yaml` counts
DeepSeek-V3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapience.model.config_json import load_config
from sapience.parallel.mesh import cut
from sapience.planning.memory import training_memory
from sapience.planning.mesh import check_plan, plan_for
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
from sapience.recipe.extend import ExtendSection, PhaseSection
from sapience.recipe.model import ModelSection
from sapience.recipe.pretrain import PretrainSection
from sapience.run import resolve_model


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
    """Bytes on the fullest device: weights, copies, gradients, optimizer, activations, total."""


@dataclass(frozen=True)
class Plan:
    """All that can be said from a recipe."""

    recipe: Recipe
    model: ModelSection
    """The recipe's, or that of the folder or run which it begins with."""
    stages: list[StagePlan]
    processes: int = 1
    """That share them."""

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
            "processes": self.processes,
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


def plan_recipe(recipe: Recipe, processes: int = 1) -> Plan:
    """Count the pre-training and every phase of the extension, as far as the recipe has them, on so many processes, a device
    each, which share them as its `parallel` section says.

    Where the recipe begins with a model of the user's own, that one is counted. Raises UserError where it is not there, or
    where the layout does not fit.
    """
    own = _own_model(recipe)
    model = recipe.model if own is None else load_config(resolve_model(own))
    pretrain, extend, length = recipe.pretrain, recipe.extend, recipe.pretrain.length
    asked: list[tuple[str, PretrainSection | ExtendSection, PhaseSection | PretrainSection, int]] = []
    if "pretrain" in recipe.stages:
        asked.append(("pretrain", pretrain, pretrain, length))
    if "extend" in recipe.stages:
        if extend.model is not None:
            scaling = model.rope_scaling
            length = scaling.original_max_position_embeddings if scaling else model.max_position_embeddings
        asked += [(f"extend x{phase.factor}", extend, phase, phase.factor * length) for phase in extend.phases]
    stages = [_stage(recipe, model, processes, *each) for each in asked]
    return Plan(recipe, model, stages, processes)


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
    recipe: Recipe,
    model: ModelSection,
    processes: int,
    name: str,
    section: PretrainSection | ExtendSection,
    phase: PretrainSection | PhaseSection,
    length: int,
) -> StagePlan:
    plan = plan_for(recipe, model, section, phase, processes)
    if processes > 1:
        check_plan(plan)
    tokens, micro = (
        sum(plan.rows) * length,
        max(cut(plan.full_step, plan.micro_rows, plan.mesh, plan.parallel)) * length,
    )
    memory = training_memory(plan, section.optimizer, length, section.recompute)
    return StagePlan(name, phase.steps, tokens, length, micro, tokens * training_operations(model, length), memory)
