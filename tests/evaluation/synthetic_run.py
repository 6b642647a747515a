"""A run directory as the stages leave it, with invented figures, for the report's tests."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sapience.run import Manifest, write_manifest

DOMAINS = {
    "en": (2.47, 2.88),
    "zh": (3.28, 3.69),
    "de": (2.61, 2.65),
    "python": (2.23, 1.92),
    "math": (2.8, 2.5),
}
FAMILIES = ("maxn", "countl", "numword", "lookup", "mul1", "codefn")
HOSTILE = '<script src="https://evil.example/x.js">alert(1)</script> & "quoted"'


def write_synthetic_run(run: Path, steps: int = 600) -> Path:
    """Fills `run` with all stages before the report; some texts carry HTML that must not come alive."""
    for stage in ("corpus", "tokenizer", "pretrain", "extend", "evaluate"):
        (run / stage).mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: synthetic\n")
    _corpus(run / "corpus")
    _training(run / "pretrain", steps)
    _extension(run / "extend")
    _evaluation(run / "evaluate")
    return run


def manifest(folder: Path, seconds: float, figures: dict[str, Any], notes: Iterable[str] = ()) -> None:
    """Declares a stage of the synthetic run finished."""
    write_manifest(
        folder,
        Manifest(folder.name, 1, f"of-{folder.name}", {}, seconds, figures, list(notes), {"torch": "2.13.0"}),
    )


def _lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def _corpus(folder: Path) -> None:
    sources = [
        {
            "name": f"help-{domain}",
            "domain": domain,
            "license": "MPL-2.0",
            "documents": 4000,
            "bytes": 5_400_000,
        }
        for domain in ("en", "zh", "de")
    ]
    sources.append({"name": "stdlib", "domain": "python", "license": "PSF-2.0", "documents": 1800, "bytes": 11_000_000})
    sources.append({"name": HOSTILE, "domain": "math", "license": "", "documents": 0, "bytes": 0})
    (folder / "provenance.json").write_text(json.dumps({"sources": sources}), encoding="utf-8")
    manifest(folder, 38.0, {"documents": 13_800, "bytes": 27_200_000}, ["postgresql-doc-15 was not to be had"])
    by_language = {"en": 2.31, "zh": 1.62, "de": 2.12, "python": 2.05, "math": 1.71}
    manifest(folder.parent / "tokenizer", 9.5, {"vocab_size": 1024, "bytes_per_token": {"language": by_language}})


def _training(folder: Path, steps: int) -> None:
    metrics = []
    for step in range(10, steps + 1, 10):
        done = step / steps
        wave = 0.08 * math.sin(step * 1.7)
        metrics.append(
            {
                "step": step,
                "tokens": step * 1024 + max(0, step - steps // 5) * 1024,
                "seconds": step * 0.5,
                "learning_rate": 3e-3 * min(1, done / 0.03) * (0.525 + 0.475 * math.cos(math.pi * done)),
                "loss": 1.8 + 5.1 * math.exp(-7 * done) + wave,
                "mtp_loss": 1.9 + 5.0 * math.exp(-5 * done) + wave,
                "skipped": 0,
                "max_violation": 0.1 + 2 * math.exp(-5 * done),
                "tokens_per_second": 9400 + 300 * math.sin(step),
                "phase": "pretrain",
            }
        )
    _lines(folder / "metrics.jsonl", metrics)
    _lines(
        folder / "loads.jsonl",
        (
            {
                "step": step,
                "loads": [
                    [1000 * (1 + math.exp(-4 * step / steps) * math.sin(3 * e + layer + step / 60)) for e in range(8)]
                    for layer in range(4)
                ],
            }
            for step in range(10, steps + 1, 10)
        ),
    )
    moments = [steps * part // 6 for part in range(1, 7)]
    _lines(
        folder / "evaluations.jsonl",
        (
            {
                "step": step,
                "bits_per_byte": {d: best + 2 * math.exp(-5 * step / steps) for d, (best, _) in DOMAINS.items()},
                "mtp_acceptance": 0.5 * step / steps,
            }
            for step in moments
        ),
    )
    _lines(
        folder / "samples.jsonl",
        (
            {"step": step, "prompt": prompt, "text": text}
            for step in moments
            for prompt, text in (
                ("The ", f"of the table in document {step}"),
                ("def ", "f(x):\n    return x + 7"),
                ("<b>", HOSTILE),
            )
        ),
    )
    figures = {
        "bits_per_byte": {domain: model for domain, (model, _) in DOMAINS.items()},
        "xz_bits_per_byte": {domain: xz for domain, (_, xz) in DOMAINS.items()},
        "max_violation": 0.031,
        "max_violation_by_layer": [0.02, 0.031, 0.01, 0.02],
        "mtp": {
            "accepted": 0.51,
            "accepted_true": 0.33,
            "bigram_accepted": 0.3,
            "bigram_accepted_true": 0.19,
        },
        "mtp_acceptance": 0.52,
    }
    manifest(folder, 351.0, figures)


def _extension(folder: Path) -> None:
    records = [
        {
            "moment": moment,
            "length": length,
            "depth": depth,
            "accuracy": max(0.0, min(1.0, top - drop * depth * place)),
        }
        for moment, top, drop in (("before", 0.2, 0.1), ("phase 1", 0.97, 0.02), ("phase 2", 1.0, 0.2))
        for place, length in enumerate((128, 1024, 4096))
        for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    _lines(folder / "needles.jsonl", records)
    _lines(
        folder / "metrics.jsonl",
        ({"step": s, "tokens": s * 2048, "loss": 2 - s / 100, "learning_rate": 1e-3} for s in range(1, 60)),
    )
    manifest(folder, 162.0, {"needle_before": 0.12, "needle_after": 0.96})


def _evaluation(folder: Path) -> None:
    def score(right: float) -> dict[str, Any]:
        return {
            "accuracy": right,
            "interval": [max(0.0, right - 0.09), min(1.0, right + 0.09)],
            "problems": 50,
        }

    shares = {"accepted": 0.51, "accepted_true": 0.33, "bigram_accepted": 0.3, "bigram_accepted_true": 0.19}
    names = ("base", "extended")
    cells = [
        {"length": length, "depth": depth, "accuracy": 0.9 - depth / 5, "samples": 4}
        for length in (128, 1024, 4096)
        for depth in (0.0, 0.5, 1.0)
    ]
    figures = {
        "accuracy": {"base": 0.22, "extended": 0.25},
        "interval": {"base": [0.18, 0.27], "extended": [0.2, 0.3]},
        "families": {
            name: {f: score(0.1 * i + 0.05 * (name == "base")) for i, f in enumerate(FAMILIES)} for name in names
        },
        "problems": 300,
        "bits_per_byte": {name: {domain: model for domain, (model, _) in DOMAINS.items()} for name in names},
        "xz_bits_per_byte": {domain: xz for domain, (_, xz) in DOMAINS.items()},
        "needles": {"base": {"128": 0.9, "1024": 0.1}, "extended": {"128": 0.95, "1024": 0.9, "4096": 0.5}},
        "mtp": {
            name: {"overall": {**shares, "positions": 9000}, "domains": dict.fromkeys(DOMAINS, shares)}
            for name in names
        },
    }
    (folder / "results.json").write_text(json.dumps({**figures, "needle_cells": {"extended": cells}}))
    _lines(
        folder / "samples-extended.jsonl",
        (
            {
                "kind": "problem",
                "family": f,
                "prompt": f"Problem: one\nAnswer: 1\n\nProblem: {f} {HOSTILE}\nAnswer:",
                "produced": " 42",
                "answer": "42",
                "correct": True,
            }
            for f in FAMILIES
        ),
    )
    manifest(folder, 37.0, figures)
