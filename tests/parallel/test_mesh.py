"""Which rank has what, which combinations are refused and with what words, how a step is cut up."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_config

from sapience.parallel.mesh import RULES, Mesh, Plan, cut, mesh_of
from sapience.parallel.schedule import Impossible
from sapience.parallel.schedules import SCHEDULES
from sapience.recipe.parallel import ParallelSection

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("pipeline", "groups", "expert"), list(product((1, 2, 4), (1, 2, 3), (1, 2))))
@pytest.mark.parametrize("context", [1, 2])
def test_every_rank_has_its_place(pipeline: int, groups: int, expert: int, context: int) -> None:
    mesh = Mesh(pipeline, groups * expert * context, expert, context)
    assert mesh.readers == groups * expert
    for kind in (
        mesh.pipelines(), mesh.data_groups(), mesh.expert_groups(), mesh.same_experts(), mesh.context_groups(),
    ):  # fmt: skip
        assert sorted(rank for ranks in kind for rank in ranks) == list(range(mesh.ranks))
    for replica, ranks in enumerate(mesh.pipelines()):
        assert [(mesh.place(rank), mesh.replica(rank)) for rank in ranks] == [(p, replica) for p in range(pipeline)]
    for ranks in (*mesh.expert_groups(), *mesh.context_groups()):
        assert ranks == list(range(ranks[0], ranks[0] + len(ranks)))  # neighbours
    for ranks in mesh.same_experts():
        assert len({mesh.replica(rank) % expert for rank in ranks}) == 1


def plan_of(
    ranks: int = 4,
    rows: tuple[int, ...] = (16,),
    micro_rows: int = 4,
    method: tuple[str, str] = ("adamw", "auto"),
    **parallel: Any,
) -> Plan:
    model = tiny_config(num_hidden_layers=6)
    return Plan(ranks, ParallelSection(**parallel), model, rows, micro_rows, "parallel", *method)


@pytest.mark.parametrize(("changes", "words"), [
    ({"pipeline": 3}, "4 processes are no multiple of parallel.pipeline=3"),
    ({"pipeline": 2, "expert": 4}, "2 data-parallel ranks .* no multiple of parallel.expert=4"),
    ({"pipeline": 2, "context": 4}, "2 data-parallel ranks .* no multiple of parallel.context=4"),
    ({"ranks": 3, "expert": 3}, "model.n_routed_experts=8 is no multiple of parallel.expert=3"),
    ({"ranks": 8, "pipeline": 8}, "8 stages .* the model has 6"),
    ({"pipeline": 4, "schedule": "dualpipev"}, "8 stages .* the model has 6"),
    ({"pipeline": 2, "stage_layers": [1, 4]}, "stage_layers=.* are not 6 layers in 2 stages"),
    ({"pipeline": 2, "rows": (16, 1)}, "a step of 1 rows cannot be cut into micro-batches for 2 data-parallel ranks"),
    ({"pipeline": 2, "rows": (6,), "schedule": "dualpipe"}, "a step of 6 rows .* even number of ranks and of micro-batches"),
    ({"ranks": 3, "pipeline": 3, "schedule": "dualpipe"}, "even number of ranks"),
    ({"pipeline": 2, "shard_weights": True}, "exclude each other, .* set parallel.pipeline=1"),
    ({"method": ("muon", "auto"), "shard_weights": True}, "whole matrices that Muon needs: set optimizer.name=adamw"),
    ({"method": ("adamw", "fp8"), "shard_weights": True}, "whole matrices that FP8 blocks are made of: set precision=bf16"),
    ({"rows": (3,), "shard_weights": True}, "a step of 3 rows cannot be cut into micro-batches for 4 data-parallel ranks"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_cause_and_remedy(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Impossible, match=words):
        mesh_of(plan_of(**changes))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(Impossible, match=r"no multiple of parallel.pipeline=3; .*no multiple of parallel.expert=5"):
        mesh_of(plan_of(pipeline=3, expert=5))


def test_the_rules_are_the_documentation() -> None:
    text = " ".join((DOCS / "parallelism.md").read_text(encoding="utf-8").split())
    assert all(rule.text in text for rule in RULES)


@given(
    st.integers(1, 200), st.integers(1, 64), st.integers(1, 4), st.integers(1, 4), st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 3),
)  # fmt: skip
def test_a_step_is_cut_into_what_the_schedule_takes(
    rows: int, micro: int, pipeline: int, data: int, name: str, context: int
) -> None:
    """Ranks that share rows count as one."""
    mesh, section = Mesh(pipeline, data * context, 1, context), ParallelSection(schedule=name)  # type: ignore[arg-type]
    try:
        sizes = cut(rows, micro, mesh, section)
    except Impossible:
        # Then no number of micro-batches would do.
        for each in range(-(-rows // (micro * data)), rows // data + 1):
            with pytest.raises(Impossible):
                SCHEDULES[name](pipeline, each)
        return
    assert sum(sizes) == rows
    assert min(sizes) >= 1
    assert max(sizes) <= micro
    if mesh.ranks > 1:
        assert len(sizes) % data == 0
        assert max(sizes) - min(sizes) <= 1
    if pipeline > 1:
        assert SCHEDULES[name](pipeline, len(sizes) // data).microbatches == len(sizes) // data
