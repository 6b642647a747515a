"""What `sapience plan --processes` counts for the fullest process is what processes really hold."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from processes import pool
from tiny_models import random_batch, tiny_config, tiny_model
from trained_steps import Layout

from sapience.parallel.mesh import Plan
from sapience.parallel.spread import spread
from sapience.planning.memory import training_memory
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet

ROWS, LENGTH, MICROBATCHES = 2, 64, 8
WIDER = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 40, "kv_lora_rank": 16,
    "num_attention_heads": 4, "q_lora_rank": 24, "v_head_dim": 12, "num_hidden_layers": 6,
}  # fmt: skip


class Kept:
    """Bytes that autograd holds now and held at most; parameters left out."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self.holders: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: torch.Tensor) -> Any:
        storage = tensor.untyped_storage()
        return tensor if storage.data_ptr() in self.parameters else Holder(self, tensor)


class Holder:
    """A tensor that is counted until autograd lets go of it; of those in the same memory one counts."""

    def __init__(self, kept: Kept, tensor: torch.Tensor) -> None:
        self.kept, self.tensor = kept, tensor
        storage = tensor.untyped_storage()
        self.key, self.size = storage.data_ptr(), storage.nbytes()
        holders = kept.holders.get(self.key, 0)
        kept.holders[self.key] = holders + 1
        if not holders:
            kept.now += self.size
            kept.most = max(kept.most, kept.now)

    def __del__(self) -> None:
        self.kept.holders[self.key] -= 1
        if not self.kept.holders[self.key]:
            self.kept.now -= self.size


def unpack(packed: Any) -> torch.Tensor:
    return packed.tensor if isinstance(packed, Holder) else packed


def measured(config: ModelSection, layout: Layout, section: OptimizerSection) -> dict[str, int]:
    """What this rank holds in a step."""
    model, objective = tiny_model(config), NextTokens(0.3, 1e-2)
    made = spread(model, objective, layout.mesh, layout.section, MICROBATCHES)
    kept = Kept(made.executor.parameters().values())
    batches = [random_batch(config, ROWS, LENGTH + 1, seed=m) for m in range(MICROBATCHES)]
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, unpack):
        made.executor.forward_backward(batches, labelled_tokens(batches))
    optimizer = OptimizerSet(model, section, made.executor)
    optimizer.step(0.0)
    state = sum(value.nbytes for key, value in optimizer.tensors().items() if not key.startswith("step/"))
    weights = sum(parameter.nbytes for parameter in made.executor.parameters().values())
    return {"weights": weights, "optimizer": state, "activations": kept.most}


def counted(config: ModelSection, layout: Layout, section: OptimizerSection) -> dict[str, int]:
    rows = ROWS * MICROBATCHES
    plan = Plan(layout.mesh.ranks, layout.section, config, [rows], ROWS, optimizer=section.name)
    return training_memory(plan, section, LENGTH)


def fullest(held: list[dict[str, int]]) -> dict[str, int]:
    """Of a rank's gradients as many bytes as of its weights."""
    return max(held, key=lambda rank: 2 * rank["weights"] + rank["optimizer"] + rank["activations"])


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (Layout(data=2), "adamw"),
        (Layout(data=4, sharded=True), "muon"),
        (Layout(data=4, sharded=True, expert=2), "adamw"),
        (Layout(data=2, sharded=True, context=2), "adamw"),
        (Layout(2, "1f1b"), "muon"),
        (Layout(2, "1f1b", data=2, sharded=True, expert=2), "muon"),
        (Layout(2, "interleaved"), "adamw"),
        (Layout(2, "zb1p"), "adamw"),
        (Layout(2, "dualpipe"), "adamw"),
        (Layout(2, "dualpipev"), "adamw"),
        (Layout(4, "dualpipe"), "adamw"),
    ],
    ids=str,
)
def test_the_fullest_process_holds_what_is_counted(layout: Layout, name: Any) -> None:
    config, section = tiny_config(**WIDER), OptimizerSection(name=name, moments="bf16")
    held = fullest(pool(layout.mesh.ranks).run(measured, config, layout, section))
    wanted = counted(config, layout, section)
    assert (held["weights"], held["optimizer"]) == (wanted["weights"], wanted["optimizer"])
    # Of a pair the backward chunk frees what it has used before the forward chunk is done; tokens are not evenly spread.
    assert 0.8 < held["activations"] / wanted["activations"] < 1.15


@pytest.mark.parametrize("expert", [1, 2, 4])
def test_of_weights_that_are_cut_a_process_has_its_rows(expert: int) -> None:
    config, section = tiny_config(**WIDER), OptimizerSection()
    layout = Layout(data=4, sharded=True, weights=True, expert=expert)
    held, wanted = pool(4).run(measured, config, layout, section), counted(config, layout, section)
    assert max(rank["weights"] for rank in held) == pytest.approx(wanted["weights"], rel=0.01)
    assert max(rank["optimizer"] for rank in held) == pytest.approx(wanted["optimizer"], rel=0.05)
    assert wanted["total"] < counted(config, Layout(data=4, sharded=True, expert=expert), section)["total"]
