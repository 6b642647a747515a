"""The stage `evaluate`: the same measurements on every model of the run, or on any the recipe names.

Base models are asked few-shot in the plain form, assistants without examples in the chat format, all the same held-out
problems and by the same judge; among them is the test part of every problem file that an expert was raised on, and experts
are asked their own alone. Each model's part is written in one move when it is finished, beside the log of every
sample, and taken over by a restart; so a killed evaluation loses at most one model's work. Where the run has no corpus
(a user's own model, only problems) what needs held-out text is left out. Nothing is drawn at random but by the recipe's
seed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.evaluation.behaviour import headline
from sapience.evaluation.bits_per_byte import xz_bits_per_byte
from sapience.evaluation.comparisons import expert_figures, paired_figures
from sapience.evaluation.judging import OpenJudge, is_code, open_judge
from sapience.evaluation.measured_models import MeasuredModel, measured_models
from sapience.evaluation.measurement import Measurement, Measuring
from sapience.evaluation.problem_files import FileProblems, file_problems
from sapience.evaluation.side_by_side import side_questions
from sapience.evaluation.text_figures import held_out_text
from sapience.problems.everyday import behaviour_prompts
from sapience.problems.families import FAMILIES, OWN_FAMILIES
from sapience.problems.families import generate as generate_problems
from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import problem_files_of
from sapience.run import StageContext, write_atomically

_BY_MODEL = (
    "accuracy", "interval", "families", "answers", "behaviour", "bits_per_byte", "bits_per_byte_beginning", "needles",
    "needle_cells", "mtp",
)  # fmt: skip
_KEPT_IN_FILES = ("needle_cells",)
"""Too long for the manifest; in `results.json`."""


@dataclass(frozen=True)
class Asked:
    """The problems of an evaluation, and what had to be left out."""

    problems: list[Problem]
    repeated: list[Problem]
    left_out: list[str]
    """Families that nobody could have judged."""


def run_evaluate(context: StageContext) -> dict[str, Any]:
    """Measures every model and returns the figures of all, by model and domain or family. UserError without
    a model."""
    models = measured_models(context)
    section = context.recipe.evaluate
    raised_on = problem_files_of(context.recipe.specialise) if any(model.kind == "expert" for model in models) else []
    files = file_problems(section.problem_files, raised_on, section.problems_per_family, section.shots)
    problems, repeated = drawn_problems(context, files)
    with open_judge(any(is_code(problem) for problem in problems), context.recipe.rewards) as judge:
        asked = without_unjudgeable(problems, repeated, judge)
        measurement = _measurement(context, models, asked, judge, files)
        parts = {model.name: _part(context, model, measurement, judge) for model in models}
    xz = {domain: xz_bits_per_byte(texts) for domain, texts in measurement.held_out.texts.items()}
    results = {**_together(models, parts), "xz_bits_per_byte": xz}
    results |= {"problems": len(asked.problems), "judge": judge.judge.description}
    results |= {"unusable": files.unusable} if files.unusable else {}
    results |= {"untested": files.untested} if files.untested else {}
    if asked.left_out:
        results["left_out"] = {"families": asked.left_out, "why": judge.reason}
    side = {
        "prompts": [question.record() for question in measurement.questions],
        "answers": {name: part["side_by_side"] for name, part in parts.items()},
    }
    write_atomically(context.folder / "side_by_side.json", json.dumps(side, ensure_ascii=False, indent=1) + "\n")
    write_atomically(context.folder / "results.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    return {key: value for key, value in results.items() if key not in _KEPT_IN_FILES and value not in ({}, [])}


def family_names(chosen: Sequence[str]) -> list[str]:
    """The chosen families, or all that need no further package. UserError for a name there is not."""
    unknown = sorted(set(chosen) - set(FAMILIES))
    if unknown:
        raise UserError(
            f"evaluate.families names what there is not: {', '.join(unknown)}; choose from {', '.join(FAMILIES)}"
        )
    return list(chosen) if chosen else list(OWN_FAMILIES)


def drawn_problems(context: StageContext, files: FileProblems) -> tuple[list[Problem], list[Problem]]:
    """The held-out problems that every model is asked, and those of them that assistants are asked repeatedly.

    UserError where a family has fewer different test problems than are wanted.
    """
    section, seed = context.recipe.evaluate, context.recipe.seed
    count, problems, repeated = section.problems_per_family, list[Problem](), list[Problem]()
    generated = {
        family: generate_problems(family, "test", count, seed)
        for family in (family_names(section.families) if count else [])
    }
    for drawn in (*generated.values(), *files.asked.values()):
        problems += drawn
        repeated += drawn[: section.repeat_problems] if section.repeats > 1 else []
    return problems, repeated


def without_unjudgeable(problems: list[Problem], repeated: list[Problem], judge: OpenJudge) -> Asked:
    """Leaves out the families whose answers would have to be executed where nothing can be."""
    if judge.executes:
        return Asked(problems, repeated, [])
    left_out = list(dict.fromkeys(problem.family for problem in problems if is_code(problem)))
    kept, again = ([p for p in group if not is_code(p)] for group in (problems, repeated))
    return Asked(kept, again, left_out)


def _measurement(
    context: StageContext, models: Sequence[MeasuredModel], asked: Asked, judge: OpenJudge, files: FileProblems
) -> Measurement:
    section, seed = context.recipe.evaluate, context.recipe.seed
    assistants = any(model.kind == "assistant" for model in models)
    return Measurement(
        section=section,
        window=section.window or context.recipe.pretrain.length,
        seed=seed,
        held_out=held_out_text(context.inputs.get("corpus"), section, assistants),
        problems=asked.problems,
        repeated=asked.repeated,
        wishes=behaviour_prompts() if section.behaviour and assistants else (),
        questions=side_questions(section.side_by_side, seed),
        judge=judge.judge,
        token_folder=context.inputs.get("tokenizer"),
        solved=files.solved,
    )


def _part(context: StageContext, model: MeasuredModel, measurement: Measurement, judge: OpenJudge) -> dict[str, Any]:
    """A model's figures: taken over where they are finished, else measured and written."""
    file = context.folder / f"part-{model.name}.json"
    mark = _mark(context, model, measurement, judge)
    part = _finished_part(file, mark)
    if part is not None:
        return part
    with context.progress(f"measuring {model.name}", measurement.work(model)) as bar:
        measuring = Measuring(model, measurement, bar)
        measuring.run()
    records = ({"model": model.name, **sample} for sample in measuring.samples)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomically(context.folder / f"samples-{model.name}.jsonl", lines)
    record = {"mark": mark, "figures": measuring.figures}
    write_atomically(file, json.dumps(record, ensure_ascii=False, indent=1))
    return measuring.figures


def _together(models: Sequence[MeasuredModel], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of all models by key and model, what they say about one another, and the last assistant's headline."""
    line = [model.name for model in models if model.kind != "expert"]
    figures: dict[str, Any] = {
        key: {name: parts[name][key] for name in line if key in parts[name]} for key in _BY_MODEL
    }
    verdicts = {name: part.get("verdicts", {}) for name, part in parts.items()}
    figures |= paired_figures(line, verdicts)
    figures |= expert_figures(models, verdicts)
    by_family = {model.domain: parts[model.name].get("families") for model in models if model.kind == "expert"}
    figures["expert_families"] = {domain: families for domain, families in by_family.items() if families}
    assistants = [parts[model.name] for model in models if model.kind == "assistant"]
    if assistants:
        figures |= headline(assistants[-1].get("behaviour", {}))
        rate = assistants[-1].get("answers", {}).get("format_rate")
        figures |= {} if rate is None else {"format_rate": rate}
    return figures


def _mark(context: StageContext, model: MeasuredModel, measurement: Measurement, judge: OpenJudge) -> str:
    """What a finished part must share with this run to be taken over: amounts, judge and the model's origin."""
    beginnings = dict(measurement.held_out.beginnings)
    amounts = context.recipe.evaluate.model_dump(mode="json")
    return json.dumps([model.name, model.kind, context.recipe.seed, amounts, beginnings, judge.executes, model.origin])


def _finished_part(path: Path, mark: str) -> dict[str, Any] | None:
    """The figures in a part file, unless it is missing or belongs to another model or other amounts."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record["figures"]) if record["mark"] == mark else None
    except (OSError, ValueError, KeyError):
        return None
