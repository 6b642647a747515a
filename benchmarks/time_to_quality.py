"""How good a model is after some seconds of training: bits per byte of held-out documents, by a recipe's model and optimizer.

    python benchmarks/time_to_quality.py prepare corpus.jsonl.zst FOLDER
    python benchmarks/time_to_quality.py train FOLDER recipes/gpu-mini.yaml --seconds 60 [--set pretrain.schedule.peak=4e-3 …]

`prepare` holds out every fiftieth document, learns a tokenizer from the others and encodes them (a JSON object with `text` a
line; `kind` and `lang` name the groups scored apart). `train` warms up, which compiles, times some steps, begins anew
and trains as many steps as the seconds allow, so that the schedule ends there; compilation and scoring do not count. Every
document is scored alone behind its bos token, every byte once, in windows of 2048 tokens that do not overlap. Prints one
JSON line. `--dense` takes the experts away: every layer a dense one as wide as the experts that a token passes through.
"""

import argparse
import io
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import zstandard

from sapience.corpus.shards import TokenShard, write_shard
from sapience.corpus.stream import TokenStream
from sapience.corpus.tokenizer import Tokenizer, train_tokenizer
from sapience.evaluation.bits_per_byte import Window, evaluating, nats
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop
from sapience.pretraining.rows import StreamRows
from sapience.recipe import Recipe
from sapience.recipe.loading import load_recipe
from sapience.recipe.model import ModelSection
from sapience.training.device import placed
from sapience.training.loop import Saving, Training
from sapience.training.metrics import MetricsLog
from sapience.training.objective import NextTokens
from sapience.training.optimizer import OptimizerSet
from sapience.training.schedule import plan_steps

HELD_OUT = 50
"""Every so many-th document, from the first."""
WINDOW = 2048
WARM_UP, SHORT, LONG = 6, 10, 60
"""Steps that compile; steps of the two trainings whose difference in time tells what a step takes."""


def lines_of(corpus: Path) -> Iterator[dict[str, Any]]:
    """Records of a .jsonl.zst file."""
    with open(corpus, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            yield json.loads(line)


def group_of(record: dict[str, Any]) -> str:
    """What a document is scored with: code, math, English or other text."""
    if record.get("kind") in ("code", "math"):
        return str(record["kind"])
    return "text_en" if record.get("lang") == "en" else "text_other"


def _encoded(folder: Path, texts: list[str]) -> list[list[int]]:
    return Tokenizer.load(folder).encode_batch(texts)


def prepare(corpus: Path, folder: Path, vocabulary: int) -> None:
    """Tokenizer (unless the folder has one), token shard and held-out documents."""
    folder.mkdir(parents=True, exist_ok=True)
    records = list(lines_of(corpus))
    texts = [record["text"] for number, record in enumerate(records) if number % HELD_OUT]
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(texts, vocabulary, 3).save(folder)
    tokenizer = Tokenizer.load(folder)
    parts = [texts[i : i + 1000] for i in range(0, len(texts), 1000)]
    with ProcessPoolExecutor() as pool:
        encoded = pool.map(_encoded, [folder] * len(parts), parts)
        documents = ([tokenizer.bos_id, *ids, tokenizer.eos_id] for part in encoded for ids in part)
        tokens = write_shard(folder / "train", documents, tokenizer.vocab_size)
    held_out = [{"group": group_of(record), "text": record["text"]} for record in records[::HELD_OUT]]
    (folder / "held-out.json").write_text(json.dumps(held_out, ensure_ascii=False), encoding="utf-8")
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"documents": len(texts), "bytes": size, "tokens": tokens, "held_out": len(held_out)}))


def dense(model: ModelSection) -> ModelSection:
    """The same with every layer dense, as wide as all experts that a token passes through."""
    width = model.moe_intermediate_size * (model.num_experts_per_tok + model.n_shared_experts)
    return model.model_copy(
        update={
            "intermediate_size": width,
            "first_k_dense_replace": model.num_hidden_layers,
            "num_nextn_predict_layers": 0,
        }
    )


def score(
    model: Transformer, tokenizer: Tokenizer, held_out: list[dict[str, str]], window: int = WINDOW
) -> dict[str, float]:
    """Bits per byte, all together and by group, in windows that do not overlap."""
    windows: dict[str, list[Window]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for document in held_out:
        ids = [tokenizer.bos_id, *tokenizer.encode(document["text"])]
        sizes[document["group"]] += len(document["text"].encode())
        windows[document["group"]] += [Window(ids[i : i + window + 1], 1) for i in range(0, len(ids) - 1, window)]
    with evaluating(model):
        found = {group: nats(model, windows[group], tokenizer.pad_id, 32768) / math.log(2) for group in sorted(windows)}
    total = sum(found.values()) / sum(sizes.values())
    return {"all": round(total, 6)} | {group: round(bits / sizes[group], 6) for group, bits in found.items()}


class _Unsaved(Training):
    """Checkpoints are not what is timed."""

    def save(self) -> None:
        """Write nothing."""


class Trial:
    """A model of a recipe, its data, and a way to train it for so many steps."""

    def __init__(self, recipe: Recipe, folder: Path, is_dense: bool = False) -> None:
        self.recipe, self.section = recipe, recipe.pretrain
        self.tokenizer = Tokenizer.load(folder)
        shape = dense(recipe.model) if is_dense else recipe.model
        self.shape = shape.model_copy(update={"max_position_embeddings": self.section.length})
        self.stream = TokenStream({"train": TokenShard.open(folder / "train")}, {"train": 1.0}, self.section.length, 0)
        self.model = placed(self.fresh(), self.section)

    def fresh(self) -> Transformer:
        return Transformer(self.shape).initialize(self.recipe.seed)

    def training(self, steps: int, scratch: Path) -> _Unsaved:
        """From random weights, the schedule over so many steps."""
        section = self.section
        self.model.load_state_dict(self.fresh().state_dict())
        objective = NextTokens(section.prediction.weight, section.balance.alpha)
        return _Unsaved(
            model=self.model,
            executor=PlainLoop(self.model, objective),
            objective=objective,
            optimizer=OptimizerSet(self.model, section.optimizer),
            source=StreamRows(self.stream, section.batch.micro_rows, section.isolate_documents),
            plan=plan_steps(steps, section.batch, section.schedule, section.balance, section.prediction),
            saving=Saving(scratch, steps, 1),
            log=MetricsLog(scratch),
            log_every=10,
        )

    def timed(self, training: Training) -> float:
        """Seconds that it takes."""
        if self.model.embedding.weight.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        training.run()
        if self.model.embedding.weight.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        training.log.close()
        return seconds

    def steps_within(self, seconds: float, scratch: Path) -> int:
        """How many steps a training of so many seconds has, by the time that two short ones take."""
        short, long = (self.timed(self.training(steps, scratch)) for steps in (SHORT, LONG))
        pace = max(long - short, 1e-9) / (LONG - SHORT)
        return max(1, round((seconds - max(short - SHORT * pace, 0.0)) / pace))


def train(args: argparse.Namespace) -> None:
    """Train for the seconds and score."""
    recipe = load_recipe(Path(args.recipe), args.overrides)
    trial = Trial(recipe, args.folder, args.dense)
    with tempfile.TemporaryDirectory() as scratch:
        trial.timed(trial.training(WARM_UP, Path(scratch)))
        steps = args.steps or trial.steps_within(args.seconds, Path(scratch))
        training = trial.training(steps, Path(scratch))
        seconds = trial.timed(training)
    held_out = json.loads((args.folder / "held-out.json").read_text(encoding="utf-8"))
    counters = training.counters
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "steps": steps,
                "tokens": counters.tokens,
                "tokens_per_second": round(counters.tokens / seconds),
                "parameters": sum(p.numel() for p in trial.model.parameters()),
                "training_loss": round(counters.loss_mean, 4),
                "bits_per_byte": score(trial.model, trial.tokenizer, held_out),
                "overrides": args.overrides,
                "dense": args.dense,
            }
        )
    )


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    preparing = commands.add_parser("prepare", help="hold out, learn a tokenizer, encode")
    preparing.add_argument("corpus", type=Path)
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--vocabulary", type=int, default=32768)
    preparing.set_defaults(run=lambda args: prepare(args.corpus, args.folder, args.vocabulary))
    training = commands.add_parser("train", help="train for some seconds, then score")
    training.add_argument("folder", type=Path)
    training.add_argument("recipe")
    training.add_argument("--seconds", type=float, default=60.0)
    training.add_argument("--steps", type=int, help="so many steps instead of seconds")
    training.add_argument("--dense", action="store_true", help="a dense model of the same active width instead")
    training.add_argument("--set", nargs="*", default=[], dest="overrides", help="dotted.key=value over the recipe")
    training.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
