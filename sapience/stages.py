"""The stages in their order, and what each depends on: other stages, parts of the recipe, files of a user's own.

A stage's fingerprint is taken over exactly that; fields that change how it runs and not what it makes are left out.
Nothing here makes a stage or loads torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.recipe import Recipe, UserError
from sapience.recipe.problem_sets import ProblemSetSection, problem_files_of
from sapience.run import (
    fingerprint,
    hash_file,
    hash_model_folder,
    read_manifest,
    resolve_model,
    sign_files,
    stage_folder,
)


@dataclass(frozen=True)
class Stage:
    """A stage's place in the journey."""

    name: str
    body: str
    """module:function."""
    takes: tuple[str, ...]
    """Stages whose folders it reads, where they are part of the journey."""
    sections: tuple[str, ...]
    """Parts of the recipe that its result depends on, beside the seed."""
    needs: tuple[str, ...] = ()
    """Those of `takes` it cannot do without."""
    begins: tuple[str, ...] = ()
    """Those of `takes` of which one must have made the model that it begins with, the preferred one first; none is read
    where the stage's section names a `model` of the user's own."""
    shared: bool = False
    """Whether all processes that `torchrun` has started make it together; other stages are made by one of them."""
    version: int = 1
    """Raised when the stage comes to mean something else."""


_BASE = ("extend", "pretrain")
_KEEP_TESTS_OUT = ("corpus", "specialise", "distill", "reward", "reinforce")
"""Stages that drop or refuse what any problem set of the recipe is tested with."""
_EXPERTS = "specialise.experts"
STAGES = (
    Stage("corpus", "sapience.corpus.stage:run_corpus", (), ("corpus",)),
    Stage("tokenizer", "sapience.corpus.tokenizer_stage:run_tokenizer", ("corpus",), ("tokenizer",), ("corpus",)),
    Stage(
        "pretrain",
        "sapience.pretraining.pretrain:run",
        takes=("corpus", "tokenizer"),
        sections=("model", "pretrain", "corpus.weights"),
        needs=("corpus", "tokenizer"),
        shared=True,
    ),
    Stage(
        "extend",
        "sapience.pretraining.extend:run",
        takes=("corpus", "tokenizer", "pretrain"),
        sections=("extend", "pretrain.mixture", "pretrain.length"),
        needs=("corpus", "tokenizer"),
        begins=("pretrain",),
        shared=True,
    ),
    Stage(
        "specialise",
        "sapience.posttraining.specialise:run",
        takes=_BASE,
        sections=("specialise", "rewards"),
        begins=_BASE,
        version=2,
    ),
    Stage(
        "distill",
        "sapience.posttraining.distill:run",
        takes=("specialise",),
        sections=("distill", _EXPERTS, "specialise.system_prompt", "rewards"),
        version=2,
    ),
    Stage(
        "review",
        "sapience.posttraining.review:run",
        takes=("distill",),
        sections=("review.url", "review.votes", "review.unreviewed"),
        needs=("distill",),
    ),
    Stage(
        "finetune",
        "sapience.posttraining.finetune:run",
        takes=(*_BASE, "review"),
        sections=("finetune",),
        begins=_BASE,
    ),
    Stage(
        "reward",
        "sapience.posttraining.reward:run",
        takes=("finetune",),
        sections=(
            "reward", "distill.generated", "distill.topics", _EXPERTS, "review.url", "review.votes", "review.comparisons",
            "rewards",
        ),
        begins=("finetune",),
    ),
    Stage(
        "reinforce",
        "sapience.posttraining.reinforce:run",
        takes=("finetune", "reward"),
        sections=("reinforce", "distill.generated", "distill.topics", "reward.wishes", _EXPERTS, "rewards"),
        begins=("finetune",),
        version=3,
    ),
    Stage(
        "evaluate",
        "sapience.evaluation.stage:run_evaluate",
        takes=("corpus", "tokenizer", "pretrain", "extend", "specialise", "finetune", "reinforce"),
        sections=("evaluate", "pretrain.length", "rewards", _EXPERTS, "specialise.system_prompt"),
        version=4,
    ),
    Stage(
        "report",
        "sapience.evaluation.report:run_report",
        takes=(
            "corpus", "tokenizer", "pretrain", "extend", "specialise", "distill", "review", "finetune", "reward",
            "reinforce", "evaluate",
        ),
        sections=("report",),
    ),
)  # fmt: skip
_RUNNING = ("device", "log_every", "checkpoint_every", "keep_checkpoints")
_SUPERVISED = tuple(f"supervised.{field}" for field in _RUNNING)
_POLICY = ("policy.device", "policy.checkpoint_every", "policy.keep_checkpoints", "policy.micro_tokens")
SPEED_ONLY = {
    "pretrain": _RUNNING,
    "extend": _RUNNING,
    "specialise": (*_SUPERVISED, *_POLICY),
    "distill": ("device", "generator.timeout", "generator.key_variable"),
    "finetune": _SUPERVISED,
    "reward": (*_RUNNING, "micro_pairs"),
    "reinforce": (*_POLICY, "judge.timeout", "judge.key_variable", "judge.at_once"),
    "evaluate": ("device", "batch_tokens"),
    "rewards": ("workers",),
}
"""Fields that change how a stage runs, not what it makes; they are no part of its fingerprint."""


def taken(stage: Stage, recipe: Recipe) -> tuple[str, ...]:
    """Stages that a stage reads; one is left out where the recipe names the user's own model in its place."""
    section = getattr(recipe, stage.name, None)
    left_out: set[str] = set()
    if getattr(section, "model", None) is not None:
        left_out |= set(stage.begins)
    if stage.name == "distill" and recipe.distill.experts:
        left_out.add("specialise")
    if stage.name == "reinforce" and recipe.reinforce.reward_model is not None:
        left_out.add("reward")
    return tuple(name for name in stage.takes if name not in left_out)


def made_inputs(stage: Stage, recipe: Recipe, run: Path) -> dict[str, Path]:
    """Folders of the finished stages that a stage reads."""
    folders = {name: stage_folder(run, name) for name in taken(stage, recipe)}
    return {name: folder for name, folder in folders.items() if read_manifest(folder) is not None}


def check_inputs(stage: Stage, recipe: Recipe, run: Path) -> None:
    """Raises UserError where something is not made yet that the stage cannot do without."""
    made = made_inputs(stage, recipe, run)
    missing = [name for name in stage.needs if name not in made]
    beginnings = [name for name in stage.begins if name in taken(stage, recipe)]
    if beginnings and not any(name in made for name in beginnings):
        asked = [name for name in beginnings if name in recipe.stages] or beginnings
        missing.append(asked[0])
    if missing:
        own = f", or give {stage.name}.model a model of your own" if missing[-1] in beginnings else ""
        raise UserError(
            f"stage {stage.name} needs {', '.join(missing)}, which this run has not made: "
            f"add them to the recipe's stages or run with --from {missing[0]}{own}"
        )


def stage_fingerprint(stage: Stage, recipe: Recipe, run: Path) -> tuple[str, dict[str, str]]:
    """The fingerprint that the stage's manifest must carry today, and its inputs'.

    A stage it cannot do without counts as `missing` until it is made. Raises UserError for a model or file of the user's
    own that is not there.
    """
    inputs: dict[str, str] = {}
    for name in taken(stage, recipe):
        manifest = read_manifest(stage_folder(run, name))
        if manifest is not None:
            inputs[name] = manifest.fingerprint
        elif name in stage.needs:
            inputs[name] = "missing"
    inputs |= dict(_own_models(stage, recipe))
    inputs |= dict(_own_files(stage, recipe))
    words = _words_of_people(stage, recipe, run)
    if words:
        inputs["people"] = words
    parts = {name: _part(recipe, name) for name in stage.sections}
    return fingerprint(stage.version, parts | {"seed": recipe.seed}, inputs), inputs


def _own_models(stage: Stage, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Models that the recipe names, by content."""
    section = getattr(recipe, stage.name, None)
    for field in ("model", "reward_model"):
        text = getattr(section, field, None)
        if isinstance(text, str):
            yield field.replace("_", " "), hash_model_folder(resolve_model(text))
    judge = recipe.reinforce.judge
    if stage.name == "reinforce" and judge is not None and judge.url is None:
        yield "judge", hash_model_folder(resolve_model(judge.model))
    for field in ("models", "experts"):
        for name, text in sorted(getattr(section, field, {}).items()):
            if isinstance(text, str):
                yield f"{field[:-1]} {name}", hash_model_folder(resolve_model(text))


def _own_files(stage: Stage, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Files of a user's own that the stage reads, by content; a corpus, which may be huge, by names, sizes and times."""
    if stage.name == "corpus":
        for source in recipe.corpus.sources:
            if source.type == "files":
                yield f"files {source.name}", sign_files(Path(source.path).expanduser())
        for text in recipe.corpus.problem_files:
            yield f"file {text}", _hash(Path(text).expanduser(), "corpus.problem_files")
    if stage.name == "tokenizer" and recipe.tokenizer.path is not None:
        path = Path(recipe.tokenizer.path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"no tokenizer.json at {file}: correct tokenizer.path, or leave it out to train one")
        yield "tokenizer.json", hash_file(file)
    rewards = [
        name.rpartition(":")[0] for sources in recipe.reinforce.rewards.values() for name in sources if ":" in name
    ]
    files = {"finetune": recipe.finetune.samples, "reward": recipe.reward.pairs, "reinforce": rewards}
    named = files.get(stage.name, [])
    sets = {"reward": recipe.reward.problems, "reinforce": recipe.reinforce.problems}
    problems = sets.get(stage.name, ProblemSetSection())
    if _EXPERTS in stage.sections or stage.name == "specialise":
        problems = recipe.specialise.all_problems() if problems.empty else problems
    tested = problem_files_of(recipe) if stage.name in _KEEP_TESTS_OUT else []
    if stage.name == "evaluate":
        tested = recipe.evaluate.problem_files
    for place, made in enumerate(made for made in tested if made.use != "train"):
        content = "" if made.path is None else _hash(Path(made.path).expanduser(), stage.name)
        meaning = made.model_dump(mode="json", exclude={"weight"})
        yield f"problem set {place}", fingerprint(0, meaning, {"content": content})
    for text in sorted({*named, *(file.path for file in problems.files if file.path is not None)}):
        yield f"file {text}", _hash(Path(text).expanduser(), stage.name)


def _hash(path: Path, where: str) -> str:
    if not path.is_file():
        raise UserError(f"there is no file {path}, which {where} names: correct the path in the recipe")
    return hash_file(path)


def _words_of_people(stage: Stage, recipe: Recipe, run: Path) -> str:
    """What people said in the review queue, for the two stages that use it; empty where they have said nothing."""
    if stage.name not in ("review", "reward"):
        return ""
    from sapience.review.queue import ReviewQueue, queue_url

    url = recipe.review.url or queue_url(run)
    if not ReviewQueue.exists(url):
        return ""
    queue = ReviewQueue.open(url, recipe.review.votes)
    try:
        return queue.fingerprint("draft" if stage.name == "review" else "comparison")
    finally:
        queue.close()


def _part(recipe: Recipe, dotted: str) -> Any:
    node: Any = recipe
    for name in dotted.split("."):
        node = getattr(node, name)
    if callable(node):
        node = node()
    if isinstance(node, dict):
        return {
            key: value.model_dump(mode="json") if hasattr(value, "model_dump") else value for key, value in node.items()
        }
    if not hasattr(node, "model_dump"):
        return node
    record = node.model_dump(mode="json")
    for field in SPEED_ONLY.get(dotted, ()):
        _without(record, field.split("."))
    return record


def _without(record: Any, path: Sequence[str]) -> None:
    for name in path[:-1]:
        record = record.get(name) or {}
    record.pop(path[-1], None)


def stage_names(stages: Sequence[Stage] = STAGES) -> list[str]:
    """Names in the journey's order."""
    return [stage.name for stage in stages]
