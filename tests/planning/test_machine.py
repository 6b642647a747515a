"""What is found on the machine, containers' limits included, and what a run refuses to start without."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from sapience.planning import doctor as doctor_module
from sapience.planning import machine as machine_module
from sapience.planning.doctor import doctor_report
from sapience.planning.machine import Gpu, examine, memory, usable_cores
from sapience.planning.needs import check_before, needs_of
from sapience.planning.parameters import count_parameters
from sapience.recipe import Recipe, UserError
from sapience.recipe.model import ModelSection
from sapience.recipe.optimization import BatchSection
from sapience.recipe.parallel import ParallelSection
from sapience.recipe.pretrain import PretrainSection
from sapience.rewards.sandbox import choose_sandbox


def test_this_machine_is_described(tmp_path: Path) -> None:
    found = examine(tmp_path / "not" / "there" / "yet")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory_available_bytes <= found.memory_total_bytes
    assert found.disk_free_bytes == pytest.approx(
        os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.05
    )


def _group(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(machine_module, "_group_folders", lambda controller: iter([folder]))


def test_a_container_of_version_2_limits_memory_and_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"memory.max": "2000000", "memory.current": "1500000", "memory.stat": "anon 1\ninactive_file 300000",
             "cpu.max": "150000 100000"}  # fmt: skip
    _group(monkeypatch, tmp_path / "group", files)
    assert memory() == (2_000_000, 800_000)
    assert usable_cores() == 1


def test_a_container_of_version_1_limits_memory_and_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"memory.limit_in_bytes": "2000000", "memory.usage_in_bytes": "500000", "cpu.cfs_quota_us": "100000",
             "cpu.cfs_period_us": "100000"}  # fmt: skip
    _group(monkeypatch, tmp_path / "group", files)
    assert memory() == (2_000_000, 1_500_000)
    assert usable_cores() == 1


@pytest.mark.parametrize("files", [
    {"memory.max": "max", "memory.current": "5", "cpu.max": "max 100000"},
    {"memory.limit_in_bytes": "9223372036854771712", "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
    {"memory.max": "nonsense", "cpu.max": "nonsense"},
])  # fmt: skip
def test_no_limit_means_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str]) -> None:
    monkeypatch.setattr(machine_module, "_group_folders", lambda controller: iter([]))
    total, _ = memory()
    cores = usable_cores()
    _group(monkeypatch, tmp_path / "group", files)
    assert memory()[0] == total and usable_cores() == cores


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'Odd, name, 40960'\n")
    tool.chmod(0o755)
    assert machine_module._gpus(str(tool)) == (
        Gpu("NVIDIA H100 80GB HBM3", 81559 << 20),
        Gpu("Odd, name", 40960 << 20),
    )
    tool.write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert machine_module._gpus(str(tool)) == ()


def test_doctor_names_a_remedy_exactly_where_something_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = Mock(weaker=False, description="bubblewrap: all of it")
    monkeypatch.setattr(doctor_module, "choose_sandbox", lambda: strong)
    monkeypatch.setattr(doctor_module, "missing", lambda language: [])  # whatever compilers this machine has
    good = replace(
        examine(tmp_path), cores=2, memory_available_bytes=8 << 30, disk_free_bytes=9 << 30,
        packages={"torch": "2.13.0"}, programs={"cc": "/usr/bin/cc", "apt-get": "/usr/bin/apt-get"},
    )  # fmt: skip
    assert all(row.remedy == "" for row in doctor_report(good))
    poor = replace(good, cores=1, memory_available_bytes=1 << 30, disk_free_bytes=1 << 20,
                   packages={"torch": None}, programs={"cc": None, "apt-get": None})  # fmt: skip
    remedies = {row.what: row.remedy for row in doctor_report(poor) if row.remedy}
    assert set(remedies) == {"cores", "memory", "disk", "torch", "cc", "apt-get"}
    strong.weaker = True
    assert "user namespaces" in {row.what: row.remedy for row in doctor_report(good)}["sandbox"]
    monkeypatch.setattr(doctor_module, "choose_sandbox", Mock(side_effect=UserError("install bubblewrap")))
    assert "install bubblewrap" in {row.what: row.remedy for row in doctor_report(good)}["sandbox"]


def test_doctor_names_the_sandbox_that_a_run_would_choose(tmp_path: Path) -> None:
    try:
        expected = choose_sandbox().description
    except UserError:
        expected = "none"
    assert {row.what: row.state for row in doctor_report(examine(tmp_path))}["sandbox"] == expected


def test_needs_grow_with_what_is_asked_for() -> None:
    small = Recipe(stages=["corpus", "tokenizer", "pretrain", "extend", "evaluate", "report"])
    longer = small.model_copy(
        update={"pretrain": small.pretrain.model_copy(update={"steps": 10 * small.pretrain.steps})}
    )
    bigger = small.model_copy(update={"model": ModelSection(hidden_size=2048, num_hidden_layers=24)})
    assert needs_of(longer).minutes > 2 * needs_of(small).minutes
    assert needs_of(small, cores=1).minutes > needs_of(small, cores=2).minutes
    assert needs_of(bigger).memory_bytes > 4 * needs_of(small).memory_bytes
    assert needs_of(bigger).disk_bytes > 10 * needs_of(small).disk_bytes
    assert needs_of(small.model_copy(update={"stages": ["report"]})).minutes < 1


def test_a_machine_that_is_too_small_is_refused_with_the_figures(tmp_path: Path) -> None:
    recipe, machine = (
        Recipe(),
        replace(examine(tmp_path), memory_available_bytes=8 << 30, disk_free_bytes=8 << 30),
    )
    need = needs_of(recipe)
    check_before(recipe, machine, need)
    with pytest.raises(UserError, match=r"memory and 0\.06 GiB is free: close"):
        check_before(recipe, replace(machine, memory_available_bytes=1 << 26), need)
    with pytest.raises(UserError, match=r"disk and 0\.00 GiB is free"):
        check_before(recipe, replace(machine, disk_free_bytes=1 << 20), need)


def test_where_a_gpu_trains_its_memory_counts(tmp_path: Path) -> None:
    recipe = Recipe(pretrain=PretrainSection(length=4096, batch=BatchSection(rows=64, micro_rows=64)))
    machine = replace(
        examine(tmp_path),
        memory_available_bytes=2 << 30,
        disk_free_bytes=8 << 30,
        gpus=(Gpu("small", 4 << 30), Gpu("large", 80 << 30)),
    )
    assert needs_of(recipe).memory_bytes > 2 << 30
    need = needs_of(recipe, gpu=True)
    assert need.minutes is None and "of a GPU's memory" in need.sentence()
    check_before(recipe, machine, need)
    with pytest.raises(
        UserError, match=r"of a GPU's memory in stage pretrain, and it has 4\.00 GiB: lower pretrain\.batch"
    ):
        check_before(recipe, replace(machine, gpus=machine.gpus[:1]), need)
    with pytest.raises(UserError, match="a third too much"):
        check_before(recipe, replace(machine, gpus=(Gpu("nearly", need.gpu_bytes - 1),)), need)
    corpus = recipe.model_copy(update={"stages": ["corpus", "tokenizer"]})
    assert needs_of(corpus, gpu=True) == needs_of(corpus)
    wide = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"precision": "fp32"})})
    assert 1.5 * need.gpu_bytes < needs_of(wide, gpu=True).gpu_bytes < 2 * need.gpu_bytes
    policy = recipe.reinforce.policy.model_copy(update={"micro_tokens": 1 << 22})
    later = recipe.model_copy(update={"reinforce": recipe.reinforce.model_copy(update={"policy": policy})})
    with pytest.raises(UserError, match=r"in stage reinforce, .*: lower reinforce\.policy\.micro_tokens"):
        check_before(later, machine, needs_of(later, gpu=True))


LARGE = ModelSection(hidden_size=1024, num_hidden_layers=16, n_routed_experts=64, moe_intermediate_size=512)


def test_processes_that_share_a_training_need_less_each() -> None:
    recipe = Recipe(
        model=LARGE, stages=["pretrain"], pretrain=PretrainSection(batch=BatchSection(rows=64)),
        parallel=ParallelSection(expert=8),
    )  # fmt: skip
    alone = needs_of(recipe, gpu=True)
    shared = needs_of(recipe, gpu=True, processes=8)
    assert shared.gpu_bytes < 0.5 * alone.gpu_bytes and shared.disk_bytes == alone.disk_bytes
    # the leader looks at a whole model now and then
    assert shared.gpu_bytes > 6 * count_parameters(LARGE).total
    # every process makes the whole model in its machine's memory first
    assert shared.memory_bytes > 7 * alone.memory_bytes
    assert needs_of(recipe, gpu=True, processes=8, here=4).memory_bytes == pytest.approx(shared.memory_bytes / 2)
    # on a CPU those that are here count together
    assert needs_of(recipe, processes=8, here=1).memory_bytes < needs_of(recipe, processes=8).memory_bytes / 3
    own = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"model": "mine"})})
    assert needs_of(own, gpu=True, processes=8).gpu_bytes == alone.gpu_bytes
    # its layers are not those of the recipe's section, which 32 stages could not have
    longer = own.model_copy(update={"stages": ["extend"], "parallel": ParallelSection(pipeline=32)})
    assert needs_of(longer, gpu=True, processes=32) == replace(
        needs_of(longer, gpu=True), memory_bytes=needs_of(longer, gpu=True, processes=32).memory_bytes
    )
