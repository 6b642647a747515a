"""The stage `reward`: preference pairs with their reasons, and the model that learns from them (report, section 5.2.1).

Pairs come from people's comparisons, files of a user's own, what is written with sapience, and the SFT model's right and
wrong answers to problems. The stage also puts pairs of everyday answers up for comparison; what people say of them
reaches the reward model when the stage is made again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.scoring import wilson_interval
from sapience.model.huggingface import load_model
from sapience.model.transformer import Transformer
from sapience.posttraining.drawn_pairs import plausible_pairs
from sapience.posttraining.preference import (
    PairSet,
    PreferencePair,
    assembled,
    pairs_of_people,
    pairs_of_the_project,
    read_pairs,
    write_pairs,
)
from sapience.posttraining.preference_files import load_pairs
from sapience.posttraining.preference_training import PreferenceTraining, RenderedPair, rendered_pairs
from sapience.posttraining.reward_draws import (
    draw_comparisons,
    draw_problem_groups,
    draw_wish_groups,
    formed_pairs,
)
from sapience.posttraining.reward_model import RewardModel, save_reward_model
from sapience.problems.everyday import written_pairs
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Preference
from sapience.run import StageContext, resolve_model, write_atomically
from sapience.training.device import placed
from sapience.training.metrics import MetricsLog

COLLECTED = "collected.json"
"""Written when `pairs.jsonl` is whole: what else is to be told of the pairs."""


@dataclass(frozen=True)
class Collected:
    """All pairs, and what is told of how they came about."""

    pairs: PairSet
    comparisons_waiting: int
    sandbox: str


def run(context: StageContext) -> dict[str, Any]:
    """Collect the pairs, learn from them, measure on those held out."""
    section, folder = context.recipe.reward, context.folder
    source = resolve_model(section.model) if section.model is not None else context.inputs["finetune"] / "model"
    tokenizer = Tokenizer.load(source)
    chat = ChatFormat(tokenizer)
    transformer = placed(load_model(source), section)
    collected = _collected(context, transformer, chat)
    longest = min(section.length, transformer.config.max_position_embeddings)
    learned, learned_from = rendered_pairs(chat, collected.pairs.learned, longest)
    measured, measured_on = rendered_pairs(chat, collected.pairs.held_out, longest)
    model = RewardModel(transformer, context.recipe.seed, section.likelihood)
    log = MetricsLog(folder)
    training = PreferenceTraining(model, learned, section, context.recipe.seed, tokenizer.pad_id, folder, log)
    counters = training.run(context.progress)
    log.close()
    right = _measured(model, chat, measured_on, folder / "held_out_scores.jsonl", 2 * section.micro_pairs)
    save_reward_model(model, tokenizer, folder / "model")
    left_out = collected.pairs.left_out
    left_out["longer than the section's length"] = len(collected.pairs.pairs) - len(learned_from) - len(measured_on)
    figures = _accuracy(right) if right else {}
    by_category: dict[str, list[bool]] = defaultdict(list)
    for pair, is_right in zip(measured_on, right, strict=True):
        by_category[pair.category].append(is_right)
    return figures | {
        "pair_accuracy_by_category": {name: _told(by_category[name]) for name in sorted(by_category)},
        "pairs": {"learned": _by_kind(learned_from), "held_out": _by_kind(measured_on)},
        "length_difference": _length_difference(learned),
        "length_difference_by_kind": {
            kind: _length_difference(
                [row for row, pair in zip(learned, learned_from, strict=True) if pair.kind == kind]
            )
            for kind in _by_kind(learned_from)
        },
        "longer_is_better": _longer_is_better(measured),
        "comparisons_waiting": collected.comparisons_waiting,
        "steps": counters.step,
        "skipped": counters.skipped,
        "seconds": round(counters.seconds, 1),
        "sandbox": collected.sandbox,
        "left_out": {reason: count for reason, count in sorted(left_out.items()) if count},
    }


def _collected(context: StageContext, model: Transformer, chat: ChatFormat) -> Collected:
    """Pairs of every source, gathered once: what people say meanwhile belongs to the next making of the stage."""
    section, folder = context.recipe.reward, context.folder
    if (folder / COLLECTED).is_file():
        record = json.loads((folder / COLLECTED).read_text(encoding="utf-8"))
        pairs = PairSet(read_pairs(folder / "pairs.jsonl"), Counter(record["left_out"]))
        return Collected(pairs, record["comparisons_waiting"], record["sandbox"])
    problems = context.recipe.specialise.all_problems() if section.problems.empty else section.problems
    draws = draw_problem_groups(context, model, chat, problems)
    drawn = plausible_pairs(draws.groups, section.held_out)
    wishes = plausible_pairs(draw_wish_groups(context, model, chat), section.held_out)
    formed = formed_pairs(context.recipe, section.held_out)
    comparisons, left_out = draw_comparisons(context, model, chat)
    preferences, waiting = _asked(context, comparisons)
    found, bad = pairs_of_people(preferences, section.held_out)
    left_out.update(f"people: {reason}" for reason in bad)
    for name in section.pairs:
        pairs_of_file, bad = load_pairs(Path(name), section.held_out)
        found += pairs_of_file
        left_out.update(f"{Path(name).name}: {reason.partition(': ')[2]}" for reason in bad)
    written = pairs_of_the_project(written_pairs()) if section.written else []
    pairs = assembled([*found, *written, *drawn.pairs, *wishes.pairs, *formed])
    left_out.update(draws.unusable)
    left_out["problems without a right and a wrong answer"] = drawn.without_contrast
    left_out["wishes without a right and a wrong answer"] = wishes.without_contrast
    left_out["answers that nobody could judge"] = sum(
        answer.verdict == "infra_error" for group in draws.groups for answer in group.answers
    )
    pairs.left_out.update(left_out)
    write_pairs(folder / "pairs.jsonl", pairs.pairs)
    record = {"comparisons_waiting": waiting, "sandbox": draws.sandbox, "left_out": pairs.left_out}
    write_atomically(folder / COLLECTED, json.dumps(record, ensure_ascii=False, indent=1))
    return Collected(pairs, waiting, draws.sandbox)


def _asked(context: StageContext, comparisons: Sequence[Comparison]) -> tuple[list[Preference], int]:
    """What people have said so far, and how many comparisons wait, these among them; no queue is made for nothing."""
    review = context.recipe.review
    url = review.url or queue_url(context.run)
    if not comparisons and not ReviewQueue.exists(url):
        return [], 0
    queue = ReviewQueue.open(url, review.votes)
    try:
        queue.add_comparisons(comparisons)
        return queue.preferences(), len({pair.identity for pair in comparisons} - queue.compared())
    finally:
        queue.close()


def _measured(
    model: RewardModel, chat: ChatFormat, pairs: Sequence[PreferencePair], path: Path, batch: int
) -> list[bool]:
    """Whether the better answer of each pair scores higher; both scores are kept."""
    both = [model.scores(chat, [p.conversation(getattr(p, side)) for p in pairs], batch) for side in _SIDES]
    lines = [
        {"category": pair.category, "kind": pair.kind, "chosen": chosen, "rejected": rejected}
        for pair, chosen, rejected in zip(pairs, *both, strict=True)
    ]
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return [chosen > rejected for chosen, rejected in zip(*both, strict=True)]


_SIDES = ("chosen", "rejected")


def _accuracy(right: Sequence[bool]) -> dict[str, Any]:
    told = _told(right)
    return {"pair_accuracy": told["accuracy"], "pair_interval": told["interval"]}


def _told(right: Sequence[bool]) -> dict[str, Any]:
    interval = [round(bound, 4) for bound in wilson_interval(sum(right), len(right))]
    return {"accuracy": round(sum(right) / len(right), 4), "interval": interval, "pairs": len(right)}


def _by_kind(pairs: Sequence[PreferencePair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.kind for pair in pairs).items()))


def _length_difference(pairs: Sequence[RenderedPair]) -> float:
    """Mean tokens by which the better answer is longer."""
    return round(sum(len(chosen) - len(rejected) for chosen, rejected in pairs) / max(1, len(pairs)), 3)


def _longer_is_better(pairs: Sequence[RenderedPair]) -> float:
    """What a judge would get right that prefers the longer answer and tosses a coin between equal ones."""
    won = sum(0.5 + 0.5 * ((len(c) > len(r)) - (len(c) < len(r))) for c, r in pairs)
    return round(won / max(1, len(pairs)), 4)
