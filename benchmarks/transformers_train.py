"""How fast transformers trains the same model: `sapience bench train`'s step with `DeepseekV3ForCausalLM`.

    python benchmarks/transformers_train.py --config nano
    python benchmarks/lockstep.py "sapience bench train --serve" "python benchmarks/transformers_train.py --serve"

Shapes, tokens, initialisation's spread, learning rate, decay, clipping and what is timed are those of `sapience bench
train`. The model, its loss and PyTorch's fused AdamW are as anyone runs them: no code of sapience is in what is timed, the
C library's allocator is left as it is, and there is no balance loss, of which transformers has none. `bf16` keeps weights,
gradients and moments in bfloat16, eight bytes a parameter: the counterpart is `sapience bench train --dtype bf16 --narrow`.
Prediction modules are not covered (transformers trains none), nor DeepSeek-V2's gate. --serve speaks lockstep.py's protocol.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from sapience.model.config_json import config_json
from sapience.planning.parameters import training_operations
from sapience.planning.shapes import find_shape
from sapience.recipe import UserError
from sapience.recipe.model import ModelSection
from sapience.training.bench import ceiling_gflops, serve, timed
from sapience.training.device import choose_device

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FOLLOWS = 0.8
"""Share of the tokens that follow from the one before."""
POOL = 16
"""Steps' worth of tokens; then they come again."""
WARM_UP = 3
"""Steps before the first round."""


def chain(vocabulary: int, rows: int, length: int) -> Tensor:
    """[pool, rows, length + 1] tokens: mostly the follower of the one before, which a model that learns finds out."""
    generator = torch.Generator().manual_seed(0)
    follower = torch.randperm(vocabulary, generator=generator)
    tokens = torch.randint(vocabulary, (POOL * rows, length + 1), generator=generator)
    follows = torch.rand(tokens.shape, generator=generator) < FOLLOWS
    for here, before, mark in zip(tokens.T[1:], tokens.T, follows.T[1:], strict=False):
        here[mark] = follower[before[mark]]
    return tokens.view(POOL, rows, length + 1)


def peer_model(section: ModelSection, experts: str, device: torch.device) -> DeepseekV3ForCausalLM:
    """The model in float32. Raises UserError for one that transformers trains differently or not at all."""
    if section.num_nextn_predict_layers or not section.balanced_by_bias:
        raise UserError(
            "transformers trains no prediction modules, and DeepSeek-V2's gate in another class: give a --config with "
            "num_nextn_predict_layers 0 and scoring_func sigmoid"
        )
    content = config_json(section, {}, "float32")
    config = DeepseekV3Config(**content, attn_implementation="sdpa", experts_implementation=experts)
    torch.manual_seed(0)
    with torch.device(device):
        model = DeepseekV3ForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=section.initializer_range)
    return model.train()


class TransformersBench:
    """The model being trained, warmed up and ready to be timed; what `timed` and `serve` need of a bench."""

    def __init__(self, asked: argparse.Namespace) -> None:
        shape = find_shape(asked.config)
        self.asked, self.name = asked, shape.name
        self.rows, self.length = asked.batch or shape.rows, asked.length or shape.length
        self.micro_rows = asked.micro or self.rows
        if self.rows % self.micro_rows:
            raise UserError(f"{self.rows} rows cannot be cut into parts of {self.micro_rows}: give another --micro")
        self.operations = training_operations(shape.model, self.length)
        self.device = choose_device(asked.device)
        self.model = peer_model(shape.model, asked.experts, self.device)
        self.parameters = list(self.model.parameters())
        for parameter in self.parameters:  # buffers stay: rotary frequencies, and biases that choose experts
            parameter.data = parameter.data.to(TYPES[asked.dtype])
        self.run = torch.compile(self.model) if asked.compile else self.model
        groups = [
            {"params": [one for one in self.parameters if one.ndim > 1], "weight_decay": 0.1},
            {"params": [one for one in self.parameters if one.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.tokens = chain(shape.model.vocab_size, self.rows, self.length).to(self.device)
        self.losses: list[Tensor] = []
        """Of every step so far, left where they were computed."""
        began = time.perf_counter()
        for _ in range(WARM_UP):
            self.step()
        self.wait()
        self.warm_up_seconds = time.perf_counter() - began
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def described(self) -> str:
        asked = self.asked
        words = [f"{self.name} {self.rows} x {self.length}"]
        words += [f"micro {self.micro_rows}"] * (self.micro_rows != self.rows)
        words += [asked.dtype, self.device.type]
        words += ["8 bytes"] * (asked.dtype == "bf16") + ["compiled"] * asked.compile
        return " ".join([*words, asked.experts])

    def step(self) -> None:
        """Forward, loss, backward, clip and AdamW; the loss is the mean over all of the step's tokens."""
        rows = self.tokens[len(self.losses) % POOL]
        parts = self.rows // self.micro_rows
        loss = torch.zeros((), device=self.device)
        for part in rows.split(self.micro_rows):
            inputs, labels = part[:, :-1].contiguous(), part[:, 1:].contiguous()
            mean = self.run(input_ids=inputs, labels=labels, shift_labels=labels, use_cache=False).loss / parts
            mean.backward()
            loss += mean.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss)

    def round_ms(self) -> float:
        """Milliseconds of a step, over a round of them."""
        self.wait()
        began = time.perf_counter()
        for _ in range(self.asked.steps):
            self.step()
        self.wait()
        return 1e3 * (time.perf_counter() - began) / self.asked.steps

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def record(self, rounds_ms: list[float]) -> dict[str, Any]:
        """All figures, of the rounds' median, under the names that `sapience bench train` gives them."""
        ms = statistics.median(rounds_ms)
        rate = self.rows * self.length / ms * 1e3
        gflops = rate * self.operations / 1e9
        ceiling = ceiling_gflops(TYPES[self.asked.dtype], self.device)
        cuda = self.device.type == "cuda"
        return {
            "what": "train", "system": "transformers", "config": self.described, "tokens_per_s": round(rate, 1),
            "ms_per_step": round(ms, 2), "rounds_ms": [round(one, 2) for one in rounds_ms],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None,
            "model_gflops": round(gflops, 2), "ceiling_gflops": round(ceiling, 1), "mfu": round(gflops / ceiling, 4),
            "params": sum(one.numel() for one in self.parameters), "gflops_per_token": round(self.operations / 1e9, 4),
            "loss_first": round(float(self.losses[0]), 4), "loss_last": round(float(self.losses[-1]), 4),
            "warm_up_s": round(self.warm_up_seconds, 2), "torch": torch.__version__,
            "transformers": transformers.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu",
            "threads": torch.get_num_threads(),
        }  # fmt: skip


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="nano", help="a shape's name, a recipe (.yaml) or a config (.json)")
    parser.add_argument("--dtype", choices=tuple(TYPES), default="fp32", help="of weights, gradients and products")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if any")
    parser.add_argument("--experts", choices=("grouped_mm", "eager"), default="grouped_mm", help="transformers' choice")
    parser.add_argument("--batch", type=int, help="rows of a step; the shape's own without it")
    parser.add_argument("--length", type=int, help="tokens of a row; the shape's own without it")
    parser.add_argument("--micro", type=int, help="rows at once; gradients add up")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default: 5)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--serve", action="store_true", help="run a round for each line of standard input")
    arguments = parser.parse_args()
    try:
        bench = TransformersBench(arguments)
    except UserError as error:
        parser.error(str(error))
    if arguments.serve:
        serve(bench, sys.stdin, lambda line: print(line, flush=True))
        return
    record = timed(bench, arguments.rounds, lambda ms: print(f"{ms:.1f} ms a step", file=sys.stderr, flush=True))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
