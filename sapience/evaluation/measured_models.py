"""Which models are measured, and how each is to be asked: a base model few-shot, an assistant in the chat format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sapience.corpus.chat import has_chat_template
from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.recipe.specialise import SpecialiseSection
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
    families: tuple[str, ...] = ()
    """The problem families an expert was raised on; empty where the recipe does not say."""
    system: str = ""
    """What an expert is told before a problem: it was raised to reason behind this prompt."""

    @property
    def domain(self) -> str:
        """What an expert is an expert in; empty for other models."""
        return self.name.removeprefix(EXPERT) if self.kind == "expert" else ""

    def own(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that the model is asked: an expert is asked its own families, or, where the recipe does not say which they
        are, the problems of its domain; other models are asked all."""
        if self.kind != "expert":
            return list(problems)
        if self.families:
            return [problem for problem in problems if problem.family in self.families]
        return [problem for problem in problems if problem.domain == self.domain]

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
        models += [_expert(path.parent.parent.name, path.parent, context.recipe.specialise) for path in configs]
    if not models:
        raise UserError(
            "there is nothing to evaluate: run pretrain or extend first, or name models under evaluate.models"
        )
    return models


def _expert(domain: str, folder: Path, section: SpecialiseSection) -> MeasuredModel:
    known = section.experts.get(domain)
    families = tuple(known.problems.families) if known else ()
    return MeasuredModel(EXPERT + domain, folder, "expert", families, section.system_prompt)


def _named(name: str, folder: Path, chat_models: tuple[str, ...] | None) -> MeasuredModel:
    chat = name in chat_models if chat_models is not None else has_chat_template(folder)
    return MeasuredModel(name, folder, "assistant" if chat else "base")
