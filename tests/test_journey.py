"""The journey: what is made is skipped, what changed is redone, what was interrupted goes on; stage bodies stand in here."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from sapience import journey
from sapience.journey import STAGES, select_stages, states, travel
from sapience.recipe import Recipe, UserError
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Draft
from sapience.run import ProgressTask, StageContext, read_manifest, write_atomically

NAMES = [stage.name for stage in STAGES]
Body = Callable[[StageContext], dict[str, Any]]


class World:
    """Stands for the stages' bodies: remembers who worked, and may let one fail."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.said: list[str] = []
        self.contexts: dict[str, StageContext] = {}
        self.failures: dict[str, BaseException] = {}

    def body(self, name: str) -> Body:
        def run(context: StageContext) -> dict[str, Any]:
            self.worked.append(name)
            self.contexts[name] = context
            (context.folder / "begun").write_text("x")
            if name in self.failures:
                raise self.failures.pop(name)
            (context.folder / "product").write_text(name)
            return {"figure": len(self.worked)}

        return run

    @contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[ProgressTask]:
        yield self

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """A bar that nobody sees."""

    def go(self, recipe: Recipe, run: Path, first: str | None = None, last: str | None = None) -> list[str]:
        """Travel; returns the stages that worked this time."""
        self.worked.clear()
        self.said.clear()
        travel(recipe, run, self.progress, self.said.append, first, last)
        return list(self.worked)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    stand_in = ModuleType("stand_in_stages")
    for name in NAMES:
        setattr(stand_in, name, world.body(name))
    monkeypatch.setitem(sys.modules, "stand_in_stages", stand_in)
    stages = tuple(replace(stage, body=f"stand_in_stages:{stage.name}") for stage in STAGES)
    monkeypatch.setattr(journey, "STAGES", stages)
    return world


def recipe_with(**changes: Any) -> Recipe:
    """Dotted fields with two underscores for the dot."""
    tree: dict[str, Any] = {}
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return Recipe.model_validate(tree)


def states_of(recipe: Recipe, run: Path) -> dict[str, str]:
    return {state.name: state.state for state in states(recipe, run)}


def test_all_stages_are_made_in_order_and_again_none(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    assert states_of(recipe, tmp_path) == dict.fromkeys(NAMES, "waiting")
    assert world.go(recipe, tmp_path) == NAMES
    assert states_of(recipe, tmp_path) == dict.fromkeys(NAMES, "finished")
    for name in NAMES:
        manifest = read_manifest(tmp_path / name)
        assert manifest is not None and manifest.stage == name and manifest.figures == {"figure": NAMES.index(name) + 1}
        assert not (tmp_path / name / "pending.json").exists()
    assert Recipe.model_validate(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == recipe
    assert world.go(recipe, tmp_path) == []
    assert all("already made" in said for said in world.said) and len(world.said) == len(NAMES)


def test_a_stage_is_given_the_finished_ones_it_takes_and_a_folder_that_exists(world: World, tmp_path: Path) -> None:
    world.go(recipe_with(), tmp_path)
    for stage in STAGES:
        context = world.contexts[stage.name]
        assert context.run == tmp_path and context.folder == tmp_path / stage.name
        assert dict(context.inputs) == {name: tmp_path / name for name in stage.takes}


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"pretrain__log_every": 3}, []),
        ({"pretrain__checkpoint_every": 7, "extend__keep_checkpoints": 5}, []),
        ({"pretrain__device": "cpu", "evaluate__device": "cpu", "extend__device": "cpu"}, []),
        ({"evaluate__batch_tokens": 77}, []),
        ({"parallel__threads": 1}, []),
        ({"name": "other"}, []),
        ({"report__title": "Mine"}, ["report"]),
        ({"evaluate__shots": 1}, ["evaluate", "report"]),
        ({"extend__needles__trials": 2}, NAMES[3:]),
        ({"specialise__policy__checkpoint_every": 3, "specialise__supervised__log_every": 3}, []),
        ({"finetune__supervised__keep_checkpoints": 3, "reinforce__policy__device": "cpu", "reward__log_every": 3}, []),
        ({"distill__device": "cpu", "rewards__workers": 5}, []),
        ({"specialise__policy__iterations": 3}, NAMES[4:]),
        ({"specialise__system_prompt": "Think."}, NAMES[4:]),
        ({"specialise__demonstrations": 7}, NAMES[4:]),
        ({"rewards__cpu_seconds": 3.0}, NAMES[4:]),
        ({"distill__draws": 3}, NAMES[5:]),
        ({"review__unreviewed": "all"}, NAMES[6:]),
        ({"review__comparisons": 3}, ["reward", "reinforce", "evaluate", "report"]),
        ({"specialise__policy__micro_tokens": 64, "reinforce__policy__micro_tokens": 64, "reward__micro_pairs": 2}, []),
        ({"finetune__repeats": {"everyday": 2}}, NAMES[7:]),
        ({"reward__epochs": 2}, ["reward", "reinforce", "evaluate", "report"]),
        ({"reward__precision": "bf16"}, ["reward", "reinforce", "evaluate", "report"]),
        ({"reinforce__policy__precision": "bf16"}, ["reinforce", "evaluate", "report"]),
        ({"reinforce__everyday": 0.5}, ["reinforce", "evaluate", "report"]),
        ({"pretrain__steps": 7}, NAMES[2:]),
        ({"pretrain__batch__rows": 8}, NAMES[2:]),
        ({"model__hidden_size": 64}, NAMES[2:]),
        ({"tokenizer__sample_mb": 1.0}, NAMES[1:]),
        ({"corpus__shortest": 7}, NAMES),
        ({"seed": 1}, NAMES),
        ({"serve__draft": 3}, []),
    ],
    ids=str,
)
def test_a_changed_field_redoes_what_depends_on_it_and_nothing_else(
    change: dict[str, Any], redone: list[str], world: World, tmp_path: Path
) -> None:
    world.go(recipe_with(), tmp_path)
    for name in NAMES:
        (tmp_path / name / "old").write_text("x")
    changed = recipe_with(**change)
    expected = dict.fromkeys(NAMES, "finished")
    if redone:
        expected[redone[0]] = "outdated"
    told = states_of(changed, tmp_path)
    assert all(told[name] == state for name, state in expected.items() if name not in redone[1:])
    assert world.go(changed, tmp_path) == redone
    for name in NAMES:
        assert (tmp_path / name / "old").exists() == (name not in redone)
        assert any(said.startswith(f"{name}: its recipe or inputs have changed") for said in world.said) == (
            name in redone
        )
    assert world.go(changed, tmp_path) == []


def test_a_new_version_of_a_stage_redoes_it_and_other_packages_do_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with()
    world.go(recipe, tmp_path)
    monkeypatch.setattr(journey, "package_versions", lambda: {"torch": "99.0"})
    assert world.go(recipe, tmp_path) == []
    stages = [replace(s, version=s.version + 1) if s.name == "evaluate" else s for s in journey.STAGES]
    monkeypatch.setattr(journey, "STAGES", tuple(stages))
    assert world.go(recipe, tmp_path) == ["evaluate", "report"]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), RuntimeError("broken"), UserError("mend it"), OSError(28, "full")]
)
def test_an_interrupted_stage_goes_on_in_its_folder(failure: BaseException, world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    world.failures["pretrain"] = failure
    with pytest.raises(type(failure)):
        world.go(recipe, tmp_path)
    assert read_manifest(tmp_path / "pretrain") is None
    assert states_of(recipe, tmp_path) == dict(
        zip(NAMES, ["finished"] * 2 + ["unfinished"] + ["waiting"] * (len(NAMES) - 3), strict=True)
    )
    (tmp_path / "pretrain" / "checkpoint").write_text("x")
    assert world.go(recipe, tmp_path) == NAMES[2:]
    assert "pretrain: going on where it was interrupted" in world.said
    assert (tmp_path / "pretrain" / "checkpoint").exists()


def test_seconds_of_all_sessions_add_up(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    world.failures["corpus"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.go(recipe, tmp_path)
    pending = tmp_path / "corpus" / "pending.json"
    record = yaml.safe_load(pending.read_text())
    write_atomically(pending, pending.read_text().replace(str(record["seconds"]), "100.0"))
    world.go(recipe, tmp_path, last="corpus")
    manifest = read_manifest(tmp_path / "corpus")
    assert manifest is not None and 100.0 <= manifest.seconds < 110.0


def test_a_stage_whose_memory_is_full_names_its_remedy_and_goes_on_later(world: World, tmp_path: Path) -> None:
    world.failures["finetune"] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(UserError, match=r"in stage finetune .*: lower finetune\.supervised\.batch\.micro_rows"):
        world.go(recipe_with(), tmp_path)
    assert states_of(recipe_with(), tmp_path)["finetune"] == "unfinished"
    assert world.go(recipe_with(), tmp_path)[0] == "finetune"


def test_an_interrupted_stage_of_another_recipe_starts_afresh(world: World, tmp_path: Path) -> None:
    world.failures["pretrain"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.go(recipe_with(), tmp_path)
    (tmp_path / "pretrain" / "checkpoint").write_text("x")
    assert world.go(recipe_with(pretrain__steps=7), tmp_path) == NAMES[2:]
    assert "pretrain: its recipe or inputs have changed since it was interrupted; starting it again" in world.said
    assert not (tmp_path / "pretrain" / "checkpoint").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", "7"])
def test_a_torn_note_of_a_pending_stage_starts_it_afresh(damage: str, world: World, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "pending.json").write_text(damage)
    (tmp_path / "corpus" / "old").write_text("x")
    assert world.go(recipe_with(), tmp_path) == NAMES
    assert not (tmp_path / "corpus" / "old").exists()


def test_a_damaged_manifest_means_unfinished(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    world.go(recipe, tmp_path)
    (tmp_path / "evaluate" / "manifest.json").write_text("{")
    assert states_of(recipe, tmp_path)["evaluate"] == "waiting"
    assert world.go(recipe, tmp_path) == ["evaluate"]


def test_a_part_of_the_journey(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    assert world.go(recipe, tmp_path, last="tokenizer") == ["corpus", "tokenizer"]
    assert world.go(recipe, tmp_path, first="pretrain", last="pretrain") == ["pretrain"]
    with pytest.raises(UserError, match="'dance' is no stage of this recipe: choose from corpus, tokenizer"):
        select_stages(recipe, "dance", None)
    with pytest.raises(UserError, match="--from extend comes after --to corpus"):
        select_stages(recipe, "extend", "corpus")
    short = recipe_with(stages=["pretrain", "corpus", "tokenizer"])
    assert [stage.name for stage in select_stages(short, None, None)] == ["corpus", "tokenizer", "pretrain"]
    with pytest.raises(UserError, match="'extend' is no stage of this recipe"):
        select_stages(short, "extend", None)


def test_a_missing_input_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage pretrain needs corpus, tokenizer, which this run has not made"):
        world.go(recipe_with(), tmp_path, first="pretrain")
    assert not (tmp_path / "pretrain").exists()
    with pytest.raises(UserError, match=r"add them to the recipe's stages or run with --from pretrain"):
        world.go(recipe_with(), tmp_path, last="tokenizer")
        world.go(recipe_with(), tmp_path, first="extend")


def test_an_own_model_takes_a_stages_place_and_its_content_counts(world: World, tmp_path: Path) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"1")
    recipe = recipe_with(stages=["corpus", "tokenizer", "extend"], extend__model=str(model))
    run = tmp_path / "run"
    assert world.go(recipe, run) == ["corpus", "tokenizer", "extend"]
    assert set(world.contexts["extend"].inputs) == {"corpus", "tokenizer"}
    assert world.go(recipe, run) == []
    (model / "model.safetensors").write_bytes(b"2")
    assert world.go(recipe, run) == ["extend"]
    with pytest.raises(UserError, match="neither a run nor a Hugging Face folder"):
        world.go(recipe_with(stages=["corpus", "tokenizer", "extend"], extend__model="nowhere"), run)


def test_an_own_tokenizers_content_counts(world: World, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("1")
    recipe = recipe_with(tokenizer__path=str(path), stages=["corpus", "tokenizer"])
    run = tmp_path / "run"
    assert world.go(recipe, run) == ["corpus", "tokenizer"]
    assert world.go(recipe, run) == []
    path.write_text("2")
    assert world.go(recipe, run) == ["tokenizer"]
    path.unlink()
    with pytest.raises(UserError, match=r"no tokenizer.json at .*tokenizer.json"):
        world.go(recipe, run)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("2")
    moved = recipe_with(tokenizer__path=str(folder), stages=["corpus", "tokenizer"])
    assert world.go(moved, run) == ["tokenizer"]


def test_own_models_and_files_start_post_training_anywhere(world: World, tmp_path: Path) -> None:
    model, samples = tmp_path / "mine", tmp_path / "samples.jsonl"
    model.mkdir()
    (model / "config.json").write_text("{}")
    samples.write_text("1")
    recipe = recipe_with(stages=["finetune"], finetune__model=str(model), finetune__samples=[str(samples)])
    run = tmp_path / "run"
    assert world.go(recipe, run) == ["finetune"] and not world.contexts["finetune"].inputs
    assert world.go(recipe, run) == []
    samples.write_text("2")
    assert world.go(recipe, run) == ["finetune"]
    samples.unlink()
    with pytest.raises(UserError, match=r"no file .*samples.jsonl, which finetune names"):
        world.go(recipe, run)
    with pytest.raises(UserError, match=r"stage finetune needs extend.*or give finetune.model a model of your own"):
        world.go(recipe_with(stages=["finetune"]), run)
    own = {"model": str(model), "reward_model": str(model)}
    files = [{"path": str(tmp_path / "problems.jsonl")}]
    recipe = recipe_with(stages=["reinforce"], reinforce={**own, "problems": {"files": files}})
    (tmp_path / "problems.jsonl").write_text("1")
    assert world.go(recipe, run) == ["reinforce"] and not world.contexts["reinforce"].inputs
    (tmp_path / "problems.jsonl").write_text("2")
    assert world.go(recipe, run) == ["reinforce"]
    recipe = recipe_with(stages=["distill"], distill__experts={"math": str(model)})
    assert world.go(recipe, run) == ["distill"]
    (model / "model.safetensors").write_bytes(b"3")
    assert world.go(recipe, run) == ["distill"]


def test_an_evaluation_follows_the_files_that_it_asks(world: World, tmp_path: Path) -> None:
    own, asked = tmp_path / "own.jsonl", tmp_path / "asked.jsonl"
    own.write_text("1")
    asked.write_text("1")

    def recipe(**fields: Any) -> Recipe:
        files = [{"path": str(own), **fields}, {"dataset": "d", "hub_split": fields.get("use", "train")}]
        return recipe_with(
            stages=["evaluate"], specialise__experts={"math": {"problems": {"files": files}}},
            evaluate__problem_files=[{"path": str(asked)}],
        )  # fmt: skip

    run = tmp_path / "run"
    assert world.go(recipe(), run) == ["evaluate"] and world.go(recipe(), run) == []
    for file in (own, asked):
        file.write_text("2")
        assert world.go(recipe(), run) == ["evaluate"] and world.go(recipe(), run) == []
    assert world.go(recipe(use="test"), run) == ["evaluate"]
    own.unlink()
    with pytest.raises(UserError, match=r"no file .*own.jsonl, which evaluate names"):
        world.go(recipe(), run)


def test_what_people_say_redoes_the_stage_that_uses_it(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    world.go(recipe, tmp_path)
    queue = ReviewQueue.open(queue_url(tmp_path))
    asked = (("user", "Hello"),)
    draft = Draft.of(asked, "Hi", "en", "greeting", "someone")
    pair = Comparison.of(asked, "Hi", "Bah", "en", "greeting", "someone")
    queue.add_drafts([draft])
    queue.add_comparisons([pair])
    assert world.go(recipe, tmp_path) == [], "a question is no answer"
    queue.choose(pair.identity, "ann", "first", "friendlier")
    assert world.go(recipe, tmp_path) == ["reward", "reinforce", "evaluate", "report"]
    queue.decide(draft.identity, "ann", "accept")
    assert world.go(recipe, tmp_path) == NAMES[6:]
    queue.undo("ann")
    assert world.go(recipe, tmp_path) == NAMES[6:]
    queue.close()


def test_models_to_evaluate_count_by_content(world: World, tmp_path: Path) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe = recipe_with(stages=["evaluate"], evaluate__models={"mine": str(model)})
    run = tmp_path / "run"
    assert world.go(recipe, run) == ["evaluate"]
    (model / "model.safetensors").write_bytes(b"1")
    assert world.go(recipe, run) == ["evaluate"]
    assert world.go(recipe, run) == []


def test_a_run_that_another_process_works_in_is_left_alone(world: World, tmp_path: Path) -> None:
    from sapience.run import locked

    with locked(tmp_path), pytest.raises(UserError, match="another process is working"):
        world.go(recipe_with(), tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()


def test_changed_files_of_the_users_own_redo_the_corpus(world: World, tmp_path: Path) -> None:
    own = tmp_path / "texts"
    own.mkdir()
    (own / "one.txt").write_text("first")
    run = tmp_path / "run"
    source = {"type": "files", "name": "own", "domain": "en", "path": str(own)}
    recipe = recipe_with(corpus__sources=[source])
    assert world.go(recipe, run) == NAMES
    assert world.go(recipe, run) == []
    (own / "two.txt").write_text("second")
    assert states_of(recipe, run)["corpus"] == "outdated"
    assert world.go(recipe, run)[0] == "corpus"


def test_a_forgotten_stage_is_made_again_and_no_other(world: World, tmp_path: Path) -> None:
    recipe = recipe_with()
    world.go(recipe, tmp_path)
    journey.forget(tmp_path, "report")
    assert world.go(recipe, tmp_path) == ["report"]


def test_distilling_from_models_of_the_users_own_does_not_follow_what_experts_are_shown(
    world: World, tmp_path: Path
) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    (model / "config.json").write_text("{}")
    own: dict[str, Any] = {"stages": ["distill"], "distill__experts": {"math": str(model)}}
    assert world.go(recipe_with(**own), tmp_path / "run") == ["distill"]
    assert world.go(recipe_with(**own, specialise__demonstrations=7), tmp_path / "run") == []
