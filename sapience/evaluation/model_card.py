"""The README.md of an exported model: what it is, what it was trained on and under which licences, what it can do.

Everything in it is read from the run's directory; nothing is claimed that the run has not measured. Needs no torch.
"""

import json
from html import escape
from pathlib import Path
from typing import Any, get_args

import yaml

from sapience.evaluation.journey_table import journey_table
from sapience.evaluation.wording import amount, percent, size
from sapience.model.config_json import load_config
from sapience.planning.parameters import count_parameters
from sapience.recipe import Recipe, load_recipe
from sapience.recipe.corpus import TextSourceSection
from sapience.recipe.model import ModelSection
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.tree import StageName
from sapience.run import read_manifest

CHAT_STAGES = ("specialise", "finetune", "reinforce")
LIMITS = """## Limits

What stands above is all that was measured. Beyond it nothing is known of this model: neither whether what it says is true, nor
whether it is safe to use. Measure it on your own task first."""
MEASURED_AS = {"pretrain": "base", "extend": "extended"}
"""Name of a stage's model in the stage `evaluate`, where it differs."""
BEHAVIOUR = {
    "refused": "harmful wishes refused",
    "answered": "harmless wishes answered",
    "admitted": "unanswerable wishes admitted to be so",
}
TRAINING = ("pretrain", "extend", "specialise", "finetune", "reward", "reinforce")
"""Stages that make a model."""


def steps_to(stage: str) -> tuple[str, ...]:
    """What a stage's model has been through, itself included."""
    names = get_args(StageName)
    return names[: names.index(stage) + 1]


def run_of(model: Path) -> tuple[Path, str] | None:
    """The run that a model folder lies in, and the stage that made it; None for a folder of nobody's run."""
    for run in model.resolve().parents:
        if (run / "recipe.yaml").is_file():
            stage = model.resolve().relative_to(run).parts[0]
            return (run, stage) if stage in TRAINING else None
    return None


def model_card(model: Path, name: str) -> str | None:
    """Markdown with the header that model hubs read; None for a model that no run made."""
    found = run_of(model)
    if found is None:
        return None
    run, stage = found
    recipe = load_recipe(run / "recipe.yaml")
    config = load_config(model)
    parts = [
        _header(recipe, _sources(run), config, stage),
        _title(recipe, config, stage, name),
        _architecture(config),
        _use(stage, config),
        _journey(run, stage),
        _scores(run, stage),
        _data(run, recipe, stage),
        LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(recipe: Recipe, config: ModelSection, stage: str, name: str) -> str:
    family = "DeepSeek-V3" if config.balanced_by_bias else "DeepSeek-V2"
    made = f"stage `{stage}` of a run of sapience's recipe `{recipe.name}` (seed {recipe.seed})"
    return f"# {name}\n\nThe model of {made}, in the layout of {family}."


def _header(recipe: Recipe, sources: list[dict[str, Any]], config: ModelSection, stage: str) -> str:
    written = [s for s in recipe.corpus.sources if isinstance(s, TextSourceSection)]
    languages = sorted({s.language for s in written if s.language})
    datasets = [s.dataset for s in recipe.corpus.sources if s.type == "huggingface"]
    licenses = sorted(
        {source["license"] for source in sources if source.get("type") != "lookup" and source["license"]}
    )  # made of the others
    record = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if stage == "reward" else "text-generation",
        "tags": ["deepseek_v3" if config.balanced_by_bias else "deepseek_v2", "mixture-of-experts", "sapience"],
        "license": "other",
        "license_name": "; ".join(licenses) if licenses else "unknown",
        **({"language": languages} if languages else {}),
        **({"datasets": datasets} if datasets else {}),
    }
    return f"---\n{yaml.safe_dump(record, sort_keys=False, allow_unicode=True)}---"


def _architecture(config: ModelSection) -> str:
    count = count_parameters(config)
    rows = [
        ("parameters", f"{count.main:,} in the main model, {count.active:,} of them active for a token"),
        ("prediction modules", f"{config.num_nextn_predict_layers} with {count.mtp:,} parameters"),
        ("layers", f"{config.num_hidden_layers}, the first {config.first_k_dense_replace} dense"),
        ("experts", f"{config.n_routed_experts} routed, {config.num_experts_per_tok} of them chosen for a token"),
        ("shared experts", f"{config.n_shared_experts}"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("context", f"{config.max_position_embeddings:,} tokens"),
    ]
    return "## Architecture\n\n| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows)


def _use(stage: str, config: ModelSection) -> str:
    if stage == "reward":
        return (
            "## Use\n\nA judge: it gives a conversation a score and says nothing. The score's head is in "
            "`reward_head.safetensors`, which other loaders do not read; a recipe takes it as `reinforce.reward_model`."
        )
    chat = stage in CHAT_STAGES
    shown = (
        'tokens = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True, '
        'return_tensors="pt", return_dict=True)'
        if chat
        else 'tokens = tokenizer("The ", return_tensors="pt")'
    )
    depth = config.num_nextn_predict_layers
    drafts = (
        f" The prediction modules are the layers from {config.num_hidden_layers} on; vLLM and SGLang can draft with them."
        if depth
        else ""
    )
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
{shown}
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=64)[0]))
```

`sapience {"chat" if chat else "generate"} FOLDER`, vLLM and SGLang take the same folder.{drafts}"""


def _journey(run: Path, stage: str) -> str:
    rows = [row for row in journey_table(run) if row.stage in steps_to(stage)]
    lines = [_row(row.stage, row.made, row.took, row.figures) for row in rows]
    return "## How it came about\n\n| stage | made | time | figures |\n|---|---|---|---|\n" + "\n".join(lines)


def _scores(run: Path, stage: str) -> str:
    """What the stage `evaluate` measured on this model, and no other."""
    measured = read_manifest(run / "evaluate")
    if measured is None:
        return ""
    name = MEASURED_AS.get(stage, stage)
    figures = measured.figures
    rows = []
    if (right := figures.get("accuracy", {}).get(name)) is not None:
        low, high = figures["interval"][name]
        rows.append(_row("unseen problems solved", f"{percent(right)} ({percent(low)} to {percent(high)}, 95 %)"))
    for domain, bits in figures.get("bits_per_byte", {}).get(name, {}).items():
        rows.append(_row(f"bits per byte, {domain}", f"{bits:.3f}"))
    for what, meaning in BEHAVIOUR.items():
        told = figures.get("behaviour", {}).get(name, {}).get(what)
        if told is not None:
            rows.append(_row(meaning, f"{percent(told['share'])} of {told['wishes']}"))
    if not rows:
        return ""
    return "## Measured on what it was not trained on\n\n| what | figure |\n|---|---|\n" + "\n".join(rows)


def _data(run: Path, recipe: Recipe, stage: str) -> str:
    been = [name for name in steps_to(stage) if name in recipe.stages]
    sources = _sources(run)
    texts = [
        _row(s["name"], s["domain"], s.get("version", ""), amount(s["documents"]), size(s["bytes"]), s["license"])
        for s in sources
    ]
    parts = ["## What it was trained on"]
    if texts:
        parts.append(
            "| source | domain | version | documents | text | licence |\n|---|---|---|---|---|---|\n" + "\n".join(texts)
        )
    begun = [
        f"`{name}` began with the model `{own}`"
        for name, own in (
            ("pretrain", recipe.pretrain.model),
            ("extend", recipe.extend.model),
            ("specialise", recipe.specialise.model),
            ("finetune", recipe.finetune.model),
            ("reward", recipe.reward.model),
            ("reinforce", recipe.reinforce.model),
        )
        if name in been and own is not None
    ]
    more = [*begun]
    if "specialise" in been:
        more.append(f"solved problems: {_problems(recipe.specialise.all_problems())}")
    if "distill" in been:
        more.append("answers of this run's own experts that rules found right")
        if recipe.distill.written:
            more.append(
                "everyday conversations that come with sapience (Apache-2.0), written with the help of a language model"
            )
        if recipe.distill.generator is not None:
            more.append(
                f"everyday answers drafted by `{recipe.distill.generator.model}`, as far as review let them through"
            )
    if "finetune" in been:
        more += [f"instructions from `{file}`" for file in recipe.finetune.samples]
    if "reward" in been:
        more += [f"preference pairs from `{file}`" for file in recipe.reward.pairs]
        more += ["preference pairs that come with sapience (Apache-2.0)"] if recipe.reward.written else []
    if "reinforce" in been:
        problems = recipe.reinforce.problems
        asked = recipe.specialise.all_problems() if problems.empty else problems
        more.append(f"its own answers to problems, rewarded by rules: {_problems(asked)}")
    if more:
        parts.append("\n".join(f"- {line}" for line in more))
    return "\n\n".join(parts) if len(parts) > 1 else "\n\n".join([*parts, "The run's directory has no record of it."])


def _problems(section: ProblemSetSection) -> str:
    named = [*(f"family `{name}`" for name in section.families), *(f"`{file.source}`" for file in section.files)]
    return ", ".join(named) or "none"


def _row(*cells: str) -> str:
    """A line of a table; what a cell says can neither end it nor become markup."""
    return "| " + " | ".join(" ".join(escape(cell, quote=False).replace("|", "\\|").split()) for cell in cells) + " |"


def _sources(run: Path) -> list[dict[str, Any]]:
    """What the corpus stage kept of every source; empty for a run without one."""
    try:
        sources: list[dict[str, Any]] = json.loads((run / "corpus" / "provenance.json").read_text(encoding="utf-8"))[
            "sources"
        ]
    except (OSError, ValueError, KeyError):
        return []
    return sources
