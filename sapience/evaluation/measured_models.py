"""Which models are measured, and how each is to be asked: a base model few-shot, an assistant in the chat format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sapience.corpus.chat import has_chat_template
from sapience.problems.problem import Problem
from sapience.recipe import Recipe
from sapience.recipe.errors import UserError
from sapience.run import StageContext, read_manifest, resolve_model

Kind = Literal["base", "assistant", "expert"]
JOURNEY: dict[str, tuple[str, Kind]] = {
    "base": ("pretrain", "base"),
    "extended": ("extend", "base"),
    "finetune": ("finetune", "assistant"),
    "reinforce": ("reinforce", "assistant"),
}
"""A run's own models in the order they were made: name -> stage and kind. Experts stand apart from the line."""
EXPERT = "expert-"


@dataclass(frozen=True)
class MeasuredModel:
    """A model folder with the name its figures are filed under."""

    name: str
    folder: Path
    kind: Kind
    families: tuple[str, ...] | None = None
    """What an expert was raised on, generated families and problem files; None where the recipe does not say."""
    sets: tuple[str, ...] = ()
    """Problem files of `evaluate.problem_files`, which an expert is asked where they are of its domain."""
    system: str = ""
    """What an expert is told before a problem: it was raised to reason behind this prompt."""

    @property
    def domain(self) -> str:
        """What an expert is an expert in; empty for other models."""
        return self.name.removeprefix(EXPERT) if self.kind == "expert" else ""

    def own(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that the model is asked: an expert is asked its own families and files and the other files of its domain, or,
        where the recipe does not say which are its own, all problems of its domain; other models are asked all."""
        if self.kind != "expert":
            return list(problems)
        of_domain = [problem for problem in problems if problem.domain == self.domain]
        if self.families is None:
            return of_domain
        own = {*self.families, *(problem.family for problem in of_domain if problem.family in self.sets)}
        return [problem for problem in problems if problem.family in own]

    @property
    def origin(self) -> str:
        """The fingerprint of the stage that made it, else its path."""
        for folder in (self.folder.parent, self.folder.parent.parent):
            made = read_manifest(folder)
            if made is not None:
                return f"{made.fingerprint} {self.folder.relative_to(folder)}"
        return str(self.folder.resolve())


def measured_models(context: StageContext) -> list[MeasuredModel]:
    """The models that the recipe names, or those of this run, experts last. UserError where there is none."""
    section = context.recipe.evaluate
    if section.models:
        return [_named(name, resolve_model(text), section.chat_models) for name, text in section.models.items()]
    models = [
        MeasuredModel(name, context.inputs[stage] / "model", kind)
        for name, (stage, kind) in JOURNEY.items()
        if stage in context.inputs
    ]
    if "specialise" in context.inputs:
        configs = sorted(context.inputs["specialise"].glob("*/model/config.json"))
        models += [_expert(path.parent.parent.name, path.parent, context.recipe) for path in configs]
    if not models:
        raise UserError(
            "there is nothing to evaluate: run pretrain or extend first, or name models under evaluate.models"
        )
    return models


def _expert(domain: str, folder: Path, recipe: Recipe) -> MeasuredModel:
    known = recipe.specialise.experts.get(domain)
    families = (*known.problems.families, *(file.called for file in known.problems.files)) if known else None
    sets = tuple(file.called for file in recipe.evaluate.problem_files)
    return MeasuredModel(EXPERT + domain, folder, "expert", families, sets, recipe.specialise.system_prompt)


def _named(name: str, folder: Path, chat_models: tuple[str, ...] | None) -> MeasuredModel:
    chat = name in chat_models if chat_models is not None else has_chat_template(folder)
    return MeasuredModel(name, folder, "assistant" if chat else "base")
