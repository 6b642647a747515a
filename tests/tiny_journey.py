"""A journey from text to report that takes seconds: two domains written here, a model of a few thousand weights."""

from pathlib import Path
from random import Random
from typing import Any

import yaml

NAMES = "Ada Ben Cleo Dan Eva Finn Gia Hugo Ida Jan".split()
VERBS = "finds loses paints carries counts draws hides opens reads sells".split()
THINGS = "a boat|the old map|two red apples|a letter|the key|some bread|a blue lamp|nine stones|the clock|a drum".split(
    "|"
)
PLACES = "in the garden|at the river|under the bridge|near the mill|on the hill|behind the school|by the sea".split("|")


def write_texts(folder: Path, documents: int = 120, seed: int = 0) -> None:
    """Prose and Python, different in every document, dull enough for a tiny model to learn."""
    rng = Random(seed)
    for kind in ("prose", "code"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        sentences = [
            f"{rng.choice(NAMES)} {rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(PLACES)}."
            for _ in range(rng.randint(4, 12))
        ]
        (folder / "prose" / f"{number:03}.txt").write_text(" ".join(sentences) + "\n")
        names = rng.sample(NAMES, 2)
        lines = [f"def {names[0].lower()}_{number}(x, y):", f"    # {rng.choice(VERBS)} {rng.choice(THINGS)}"]
        lines += [f"    {names[1].lower()} = x * {rng.randint(2, 99)} + y" for _ in range(rng.randint(1, 4))]
        lines += [f"    return {names[1].lower()} - {rng.randint(2, 99)}", "", ""]
        (folder / "code" / f"{number:03}.py").write_text("\n".join(lines) * 2)


def journey_recipe(texts: Path, **changes: Any) -> dict[str, Any]:
    """The recipe as a tree; `changes` replace whole sections."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "parallel": {"threads": 1},
        "model": {
            "vocab_size": 320,
            "hidden_size": 24,
            "intermediate_size": 32,
            "moe_intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "initializer_range": 0.1,
        },
        "corpus": {
            "sources": [
                {"type": "files", "name": "stories", "domain": "prose", "path": str(texts / "prose"), "language": None},
                {"type": "files", "name": "functions", "domain": "code", "path": str(texts / "code"), "kind": "code"},
            ],
            "held_out_share": 0.1,
            "held_out_kb": 2,
            "shortest": 20,
            "near_duplicates": 1.0,
        },
        "tokenizer": {"vocab_size": 320, "sample_mb": 0.05},
        "pretrain": {
            "steps": 40,
            "length": 96,
            "curriculum": [{"until": 0.4, "mixture": {"code": 3.0}}],
            "batch": {"rows": 4, "start_rows": 2, "ramp": 0.2, "micro_rows": 2},
            "schedule": {"peak": 0.01},
            "log_every": 2,
            "checkpoint_every": 5,
            "evaluations": 2,
            "evaluation_bytes": 256,
            "final_bytes": 512,
            "sample_prompts": ["Ada ", "def "],
        },
        "extend": {
            "phases": [
                {"factor": 2, "steps": 6, "batch": {"rows": 2, "micro_rows": 2}},
                {"factor": 4, "steps": 6, "batch": {"rows": 2, "micro_rows": 1}},
            ],
            "scaling_factor": 4,
            "needles": {"documents": 20, "depths": 2, "trials": 1, "density": 1, "questions": 1},
            "checkpoint_every": 2,
            "log_every": 2,
        },
        "specialise": {
            "experts": {
                "math": {"problems": {"families": {"copy": 1}}},
                "code": {"problems": {"families": {"codefn": 1}}},
            },
            "demonstrations": 6,
            "supervised": {
                "epochs": 4,
                "length": 400,
                "batch": {"rows": 2, "micro_rows": 2},
                "peak": 0.01,
                "checkpoint_every": 3,
                "log_every": 2,
            },
            "policy": {
                "iterations": 3,
                "prompts": 3,
                "samples": 4,
                "answer_tokens": 8,
                "peak": 1e-3,
                "beta": 0.01,
                "checkpoint_every": 1,
            },
        },
        "distill": {"problems": 6, "draws": 2, "answer_tokens": 8, "shard_problems": 2},
        "review": {"unreviewed": "written", "comparisons": 3},
        "finetune": {
            "supervised": {
                "epochs": 1,
                "length": 800,
                "batch": {"rows": 16, "micro_rows": 4},
                "peak": 0.01,
                "checkpoint_every": 2,
                "log_every": 2,
            },
        },
        "reward": {
            "problems": {"families": {"copy": 1}},
            "problem_prompts": 6,
            "draws": 3,
            "answer_tokens": 8,
            "batch_pairs": 32,
            "micro_pairs": 16,
            "length": 800,
            "checkpoint_every": 1,
            "log_every": 1,
        },
        "reinforce": {
            "everyday": 0.5,
            "policy": {
                "iterations": 4,
                "prompts": 4,
                "samples": 3,
                "answer_tokens": 8,
                "peak": 1e-3,
                "beta": 0.01,
                "checkpoint_every": 2,
                "validations": 2,
                "validation_problems": 3,
                "updates": 2,
            },
        },
        "evaluate": {
            "chat_kilobytes": 1,
            "chat_answer_tokens": 4,
            "repeat_problems": 1,
            "repeats": 2,
            "bits_per_byte_kilobytes": 1,
            "mtp_kilobytes": 1,
            "needle_samples": {1: 1, 4: 1},
            "needle_depths": [0.0, 1.0],
            "families": ["copy"],
            "problems_per_family": 2,
            "shots": 1,
            "answer_tokens": 4,
        },
    }
    return recipe | changes


def write_recipe(path: Path, texts: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(journey_recipe(texts, **changes)))
    return path
