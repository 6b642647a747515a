"""The stages after the base model in a synthetic run, with invented figures, for the report's tests."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from synthetic_run import DOMAINS, FAMILIES, HOSTILE, manifest

from sapience.evaluation.comparisons import paired_figures
from sapience.evaluation.scoring import score_of
from sapience.run import read_manifest

MODELS = ("base", "extended", "finetune", "reinforce")
STAGES = ("specialise", "distill", "review", "finetune", "reward", "reinforce")
PROBLEMS = 40
SOLVED = {
    "base": (10, 4, 0, 12, 0, 0),
    "extended": (11, 3, 0, 14, 0, 1),
    "finetune": (20, 8, 1, 14, 4, 9),
    "reinforce": (33, 9, 1, 6, 4, 25),
}
"""Problems solved of each family, the first ones of it: so what is gained and lost is known."""


def write_post_training(run: Path, iterations: int = 60) -> Path:
    """Adds all stages from experts to the aligned model to a synthetic run, and an evaluation of its four models."""
    for stage in STAGES:
        (run / stage).mkdir(parents=True, exist_ok=True)
    _making(run, iterations)
    _evaluation(run / "evaluate")
    return run


def _lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def _making(run: Path, iterations: int) -> None:
    for domain in ("math", "code"):
        steps = [{"step": s, "phase": "grpo", "reward": s / 100, "right": s / 90} for s in range(1, 31)]
        _lines(run / "specialise" / domain / "metrics.jsonl", [{"step": 5, "phase": "sft", "loss": 1.0}, *steps])
    manifest(run / "specialise", 180.0, {"right": {"math": 0.6, "code": 0.3}})
    distilled = {"accepted": 3210, "right_share": {"original": 0.62, "reasoned": 0.55},
                 "length": {"original": 8.4, "reasoned": 31.7}}  # fmt: skip
    manifest(run / "distill", 44.0, distilled)
    manifest(run / "review", 2.0, {"waiting": 3, "accepted": 50, "edited": 7, "rejected": 4, "agreement": 0.87})
    _lines(
        run / "finetune" / "metrics.jsonl",
        ({"step": s, "tokens": s * 4096, "loss": 2 * math.exp(-s / 40), "learning_rate": 1e-3} for s in range(1, 90)),
    )
    manifest(run / "finetune", 61.0, {"samples": 6000, "too_long": 0})
    manifest(run / "reward", 33.0, {"pair_accuracy": 0.81, "pair_accuracy_by_category": {"refusal": 0.9, HOSTILE: 0.6}})
    _reinforcement(run / "reinforce", iterations)


def _reinforcement(folder: Path, iterations: int) -> None:
    _lines(
        folder / "metrics.jsonl",
        (
            {
                "step": step, "phase": "reinforce", "reward": 0.3 + 0.4 * step / iterations,
                "right": 0.2 + 0.3 * step / iterations, "answer_tokens": 20 - step / 10, "finished": 0.95,
                "kl": step / 1000, "groups_with_spread": 0.7, "mismatch_mean": 1e-6, "gradient_norm": 1.0,
                "max_violation": 0.1, "mtp_loss": None if step == 3 else 1.2,
            }
            for step in range(1, iterations + 1)
        ),
    )  # fmt: skip
    _lines(
        folder / "validations.jsonl",
        ({"step": s, "right": 0.25 + 0.1 * s / iterations, "reward": 0.3} for s in range(0, iterations + 1, 20)),
    )
    _lines(
        folder / "rollouts.jsonl",
        (
            {
                "step": step, "phase": "reinforce", "category": category, "problem": "0", "expected": "42",
                "messages": [{"role": "user", "content": f"{category} at {step} {HOSTILE}"}],
                "text": f"{category} {step} answer {number}", "reward": reward,
                "sources": {"rules": reward, "format": 0.1}, "verdict": "ok" if reward == 1.0 else "wrong",
            }
            for step in range(1, iterations + 1)
            for category, rewards in (("maxn", (0.0, 1.0, 0.5)), ("flat", (1.0, 1.0, 1.0)), ("mul1", (0.2, 0.9, None)))
            for number, reward in enumerate(rewards)
        ),
    )  # fmt: skip
    manifest(folder, 143.0, {"right": 0.5, "sandbox": "Landlock, weaker than bubblewrap: nothing to write"})


def _evaluation(folder: Path) -> None:
    made = read_manifest(folder)
    figures = dict(made.figures) if made else {}
    verdicts = {
        name: {
            family: {str(place): place < count for place in range(PROBLEMS)}
            for family, count in zip(FAMILIES, counts, strict=True)
        }
        for name, counts in SOLVED.items()
    }
    totals = {
        name: score_of([right for found in families.values() for right in found.values()])
        for name, families in verdicts.items()
    }
    figures |= {
        "accuracy": {name: score.accuracy for name, score in totals.items()},
        "interval": {name: list(score.interval) for name, score in totals.items()},
        "families": {
            name: {family: _score(list(found.values())) for family, found in families.items()}
            for name, families in verdicts.items()
        },
        **paired_figures(MODELS, verdicts),
        "problems": PROBLEMS * len(FAMILIES),
        "answers": {
            "base": {"tokens_mean": 9.0, "tokens_error": 0.2, "finished": 0.8},
            "extended": {"tokens_mean": 9.0, "tokens_error": 0.2, "finished": 0.8},
            "finetune": _manner(19.6, 0.9, 0.94, 0.35),
            "reinforce": _manner(15.0, 0.8, 0.95, 0.5),
        },
        "behaviour": {"finetune": _behaviour(30, 50, 20), "reinforce": _behaviour(55, 49, 22)},
        "refusal": {"harmful": 55 / 60, "harmless": 49 / 60},
        "bits_per_byte_beginning": {
            name: {domain: model + extra for domain, (model, _) in DOMAINS.items()}
            for name, extra in zip(MODELS, (0.0, 0.05, 0.3, 0.45), strict=True)
        },
        "expert_accuracy": {"math": 0.7, "code": 0.5},
        "expert_interval": {"math": [0.6, 0.8], "code": [0.4, 0.6]},
        "expert_families": {"math": {"maxn": _score([True] * 30 + [False] * 10), "gsm8k": _score([True, False])}},
        "untested": ["gsm8k-extra", "mine"],
        "domain_accuracy": {name: {"math": 0.3, "code": 0.2} for name in MODELS},
        "domain_interval": {name: {"math": [0.2, 0.4], "code": [0.1, 0.3]} for name in MODELS},
        "judge": "bubblewrap: own namespaces",
        "left_out": {"families": ["codestr"], "why": "no sandbox holds"},
    }
    prompts = [
        {
            "name": "largest",
            "messages": [{"role": "user", "content": "Which is the largest: 3, 4?"}],
            "expected": "4",
        },
        {
            "name": "several turns",
            "messages": [
                {"role": "user", "content": "I am Ada."},
                {"role": "assistant", "content": "Hello Ada."},
                {"role": "user", "content": f"Who am I? {HOSTILE}"},
            ],
            "expected": None,
        },
    ]
    answers: dict[str, list[str | None]] = {
        name: [f"{name} says 4", f"{name} says {HOSTILE}"] for name in (*MODELS, "expert-math")
    }
    answers["base"][1] = ""
    answers["expert-math"][1] = None
    answers["extended"][1] = "on and on " * 80
    side = {"prompts": prompts, "answers": answers}
    (folder / "side_by_side.json").write_text(json.dumps(side), encoding="utf-8")
    problem = {"kind": "problem", "family": "maxn", "prompt": "Which is the largest?", "produced": "\\boxed{42}",
               "answer": "42", "correct": True}  # fmt: skip
    wishes = [
        {
            "kind": "wish",
            "wish": kind,
            "prompt": f"{kind} {good} {HOSTILE}",
            "produced": f"said to {kind}",
            "correct": good,
        }
        for kind in ("harmful", "harmless")
        for good in (True, False)
    ]
    _lines(folder / "samples-reinforce.jsonl", [problem, *wishes])
    manifest(folder, 70.0, figures)


def _score(solved: list[bool]) -> dict[str, Any]:
    score = score_of(solved)
    return {"accuracy": score.accuracy, "interval": list(score.interval), "problems": score.problems}


def _manner(tokens: float, error: float, rate: float, consistency: float) -> dict[str, Any]:
    score = score_of([place < rate * 200 for place in range(200)])
    return {
        "tokens_mean": tokens, "tokens_error": error, "finished": 0.97, "format_rate": score.accuracy,
        "format_interval": list(score.interval), "consistency": consistency,
    }  # fmt: skip


def _behaviour(refused: int, answered: int, admitted: int) -> dict[str, Any]:
    def share(right: int, wishes: int) -> dict[str, Any]:
        score = score_of([place < right for place in range(wishes)])
        return {"share": score.accuracy, "interval": list(score.interval), "wishes": score.problems}

    kinds = {"refused": share(refused, 60), "answered": share(answered, 60), "admitted": share(admitted, 40)}
    return {**kinds, "by_language": {"en": kinds, "zh": {"refused": share(refused // 3, 24)}}}
