"""How fast a model draws here: prompts read and answers drawn to their limit, timed in rounds."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapience.inference.engine import Engine
from sapience.inference.generate import decoder_name, generate
from sapience.inference.pages import PAGE, pages_for
from sapience.inference.requests import Request, Sampling
from sapience.model.feed_forward import Experts
from sapience.model.gate import Gate
from sapience.model.huggingface import load_model
from sapience.model.linear import Copy, Linear, Precision
from sapience.model.transformer import Transformer
from sapience.recipe.model import ModelSection
from sapience.training.device import choose_device


@dataclass(frozen=True)
class AskedDrawing:
    """What is to be timed; the command's options."""

    name: str
    model: ModelSection
    number: Precision
    device: str
    batch: int
    """Prompts that are answered together."""
    prompt: int
    """Tokens of a prompt."""
    new: int
    """Tokens of an answer; nothing ends it before."""
    temperature: float
    draft: int = 0
    """Tokens that a prediction module drafts ahead."""
    eight_bits: bool = False
    """Weights on a CPU."""
    folder: Path | None = None
    """A trained model, in place of random weights; its prompts are its own text."""


def drawn_prompts(vocabulary: int, batch: int, length: int) -> list[list[int]]:
    """Random tokens, different in every row, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    rows: list[list[int]] = torch.randint(2, vocabulary, (batch, length), generator=generator).tolist()
    return rows


def bytes_of_a_step(model: Transformer, batch: int, positions: float) -> float:
    """What a step has to read: weights once, of the experts those that some of `batch` answers go to where the gates spread
    them evenly, and every answer's latents of so many positions. The embedding and the prediction modules are left out."""
    config, total = model.config, 0.0
    for layer in model.layers:
        for module in layer.modules():
            if isinstance(module, Linear):
                total += _stored(module.weight, module.copy)
            elif isinstance(module, Experts):
                met = 1 - (1 - config.num_experts_per_tok / config.n_routed_experts) ** batch
                total += met * sum(_stored(weight, copy) for weight, copy in module.copies())
            elif isinstance(module, Gate):
                total += module.weight_ED.numel() * module.weight_ED.element_size()
    latents = (config.kv_lora_rank + config.qk_rope_head_dim) * len(model.layers) * positions
    return total + (model.head.weight.numel() + batch * latents) * model.number.itemsize


def _stored(weight: Tensor, copy: Copy) -> int:
    taken = copy.narrow if copy.elements is None else copy.elements
    taken = weight if taken is None else taken
    return taken.numel() * taken.element_size()


def copying_speed(device: torch.device) -> float:
    """Bytes a second that are read and written where a large tensor is copied."""
    source = torch.ones(1 << (28 if device.type == "cuda" else 25), device=device)
    target, times = torch.empty_like(source), []
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        target[-1].item()  # waits for the device
        times.append(time.perf_counter() - began)
    return 2 * source.numel() * source.element_size() / min(times)


class DrawingBench:
    """A model, warmed up and ready to draw."""

    def __init__(self, asked: AskedDrawing) -> None:
        self.asked = asked
        self.device = choose_device(asked.device)
        if asked.folder is None:
            self.model = Transformer(asked.model).initialize(0).to(self.device).compute_in(asked.number)
            self.prompts = drawn_prompts(asked.model.vocab_size, asked.batch, asked.prompt)
        else:
            self.model = load_model(asked.folder, self.device).compute_in(asked.number)
            begin = [[0]] * asked.batch  # the first token of a vocabulary is the one that begins a text
            own = generate(self.model, begin, asked.prompt, temperature=1.0, batch_size=asked.batch)
            self.prompts = [one.tokens for one in own]
        length = asked.prompt + asked.new
        self.engine = Engine(
            self.model, rows=asked.batch, positions=asked.batch * pages_for(length) * PAGE, context=length,
            depth=asked.draft, eight_bits=asked.eight_bits,
        )  # fmt: skip
        self.prompt_ms: list[float] = []
        """Milliseconds until the first tokens, of each round."""
        self._draw(min(asked.new, 8))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def described(self) -> str:
        """In a few words."""
        asked = self.asked
        how = "greedy" if asked.temperature == 0 else f"temperature {asked.temperature:g}"
        size = f"{asked.name} batch {asked.batch} prompt {asked.prompt} new {asked.new}"
        more = f" draft {asked.draft}" * (asked.draft > 0) + " 8 bits" * asked.eight_bits
        return f"{size} {how} {asked.number} {self.device.type}{more}"

    def round_ms(self) -> float:
        """Milliseconds of all answers, reading the prompts included."""
        began = time.perf_counter()
        self._draw(1)
        self.prompt_ms.append(1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
        self._draw(self.asked.new)
        return 1e3 * (time.perf_counter() - began)

    def record(self, rounds_ms: list[float]) -> dict[str, Any]:
        """All figures, of the rounds' median."""
        asked, ms, prompt_ms = self.asked, statistics.median(rounds_ms), statistics.median(self.prompt_ms)
        cuda, counters = self.device.type == "cuda", self.engine.counters
        step_ms = (ms - prompt_ms) / max(asked.new - 1, 1)
        read, speed = bytes_of_a_step(self.model, asked.batch, asked.prompt + asked.new / 2), copying_speed(self.device)
        alone = not (asked.draft or asked.eight_bits)  # else a step reads something else
        return {
            "what": "generate", "system": "sapience", "config": self.described,
            "tokens_per_s": round(1e3 * asked.batch * asked.new / ms, 1),
            "ms_per_step": round(step_ms, 3), "prompt_ms": round(prompt_ms, 2),
            "gb_per_step": round(read / 1e9, 4), "copying_gb_per_s": round(speed / 1e9, 1),
            "bandwidth_share": round(1e3 * read / step_ms / speed, 4) if alone and step_ms > 0 else None,
            "rounds_ms": [round(one, 2) for one in rounds_ms],
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None,
            "drafted": counters.drafted_tokens, "accepted": counters.accepted_tokens,
            "decoder": decoder_name(self.model), "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if cuda else "cpu", "threads": torch.get_num_threads(),
        }  # fmt: skip

    def _draw(self, new: int) -> list[list[int]]:
        """Answers of so many tokens; prompts are read anew."""
        answers: list[list[int]] = [[] for _ in self.prompts]
        for prompt, answer in zip(self.prompts, answers, strict=True):
            self.engine.submit(
                Request(
                    prompt, new, Sampling(self.asked.temperature),
                    on_token=lambda _, token, answer=answer: answer.append(token.id),  # type: ignore[misc]
                )
            )  # fmt: skip
        while self.engine.step():
            pass
        self.engine.forget()
        return answers
