"""How fast transformers draws with the same model: `sapience bench generate`'s work with `DeepseekV3ForCausalLM.generate`.

    python benchmarks/transformers_generate.py --config nano --batch 16
    python benchmarks/lockstep.py "python benchmarks/transformers_generate.py --serve" "sapience bench generate --serve"

Prompts, lengths and what is timed are those of `sapience bench generate`; greedy, nothing ends an answer before its limit.
--serve speaks lockstep.py's protocol.
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
from transformers_train import TYPES, peer_model

from sapience.inference.bench import drawn_prompts
from sapience.planning.shapes import find_shape
from sapience.recipe import UserError
from sapience.training.bench import serve, timed
from sapience.training.device import choose_device


class TransformersDrawing:
    """The model, warmed up and ready to draw; what `timed` and `serve` need of a bench."""

    def __init__(self, asked: argparse.Namespace) -> None:
        shape = find_shape(asked.config)
        self.asked, self.name = asked, shape.name
        self.device = choose_device(asked.device)
        self.model = peer_model(shape.model, asked.experts, self.device).eval()
        for parameter in self.model.parameters():  # buffers stay, as in transformers_train.py
            parameter.data = parameter.data.to(TYPES[asked.dtype])
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.tokens = torch.tensor(drawn_prompts(shape.model.vocab_size, asked.batch, asked.prompt), device=self.device)
        self.prompt_ms: list[float] = []
        self._draw(min(asked.new, 8))

    @property
    def described(self) -> str:
        """In a few words."""
        asked = self.asked
        size = f"{self.name} batch {asked.batch} prompt {asked.prompt} new {asked.new}"
        return f"{size} greedy {asked.dtype} {self.device.type} {asked.experts}"

    def round_ms(self) -> float:
        """Milliseconds of all answers, reading the prompts included."""
        self.prompt_ms.append(self._draw(1))
        return self._draw(self.asked.new)

    def _draw(self, new: int) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            made = self.model.generate(
                self.tokens, attention_mask=torch.ones_like(self.tokens), max_new_tokens=new, min_new_tokens=new,
                do_sample=False,
            )  # fmt: skip
        assert made.shape[1] == self.asked.prompt + new and int(made[0, -1]) >= 0
        return 1e3 * (time.perf_counter() - began)

    def record(self, rounds_ms: list[float]) -> dict[str, Any]:
        """All figures, of the rounds' median, under the names that `sapience bench generate` gives them."""
        asked, ms, prompt_ms = self.asked, statistics.median(rounds_ms), statistics.median(self.prompt_ms)
        cuda = self.device.type == "cuda"
        return {
            "what": "generate", "system": "transformers", "config": self.described,
            "tokens_per_s": round(1e3 * asked.batch * asked.new / ms, 1),
            "ms_per_step": round((ms - prompt_ms) / max(asked.new - 1, 1), 3), "prompt_ms": round(prompt_ms, 2),
            "rounds_ms": [round(one, 2) for one in rounds_ms],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None,
            "torch": torch.__version__, "transformers": transformers.__version__,
            "device": torch.cuda.get_device_name() if cuda else "cpu", "threads": torch.get_num_threads(),
        }  # fmt: skip


def main() -> None:
    """Parse, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="nano", help="a shape's name, a recipe (.yaml) or a config (.json)")
    parser.add_argument("--dtype", choices=tuple(TYPES), default="fp32", help="of weights and products")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU if any")
    parser.add_argument("--experts", choices=("grouped_mm", "eager"), default="grouped_mm", help="transformers' choice")
    parser.add_argument("--batch", type=int, default=1, help="prompts that are answered together (default: 1)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt (default: 64)")
    parser.add_argument("--new", type=int, default=128, help="tokens of an answer (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default: 5)")
    parser.add_argument("--serve", action="store_true", help="run a round for each line of standard input")
    arguments = parser.parse_args()
    try:
        bench = TransformersDrawing(arguments)
    except UserError as error:
        parser.error(str(error))
    if arguments.serve:
        serve(bench, sys.stdin, lambda line: print(line, flush=True))
        return
    record = timed(bench, arguments.rounds, lambda ms: print(f"{ms:.1f} ms", file=sys.stderr, flush=True))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
