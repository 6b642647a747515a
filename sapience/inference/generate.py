"""Batched generation with a latent cache: prompts are read, then each row gets a token at a time.

Rows of a batch may have prompts of different lengths. A prompt that stands there several times is read once. Finished rows
leave the batch, so that a few long answers do not hold the rest. Every row has random numbers of its own, so a result does not
depend on its neighbours. Sharing of mere prefixes and speculation are not covered.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.inference import native_decoder
from sapience.inference.decoder import Decoder, LatentDecoder
from sapience.inference.native_decoder import NativeDecoder
from sapience.model.transformer import Transformer


@dataclass(frozen=True)
class Completion:
    """What the model wrote after one prompt."""

    tokens: list[int]
    """The stop token, if one came, is the last."""
    logprobs: list[float]
    """Log-probability (nats, temperature one) of each token at the moment it was drawn."""
    finished: bool
    """True where a stop token ended it, False where the limit did."""


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    batch_size: int = 64,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Continue every prompt by at most `max_new_tokens`; greedy at temperature 0.

    `on_token(prompt index, token)` is called as tokens come, for streaming. Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens: begin it with the bos token")
    model.refresh()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = _Batch(model, {i: prompts[i] for i in chosen}, max_new_tokens, seed)
        results.update(batch.run(temperature, frozenset(stop_ids), on_token))
    return [results[i] for i in range(len(prompts))]


def _row_seed(seed: int, row: int) -> int:
    """A generator takes no more than 64 bits, however large a recipe's seed is."""
    return (seed * 1_000_003 + row) % 2**64


def _decoder(model: Transformer, prompts: Sequence[Sequence[int]], limit: int) -> Decoder:
    """The fastest there is for the model."""
    return (NativeDecoder if native_decoder.fits(model) else LatentDecoder)(model, prompts, limit)


def decoder_name(model: Transformer) -> str:
    """What draws from the model here: `c++` or `pytorch`."""
    return "c++" if native_decoder.fits(model) else "pytorch"


class _Batch:
    """Rows that are decoded together."""

    def __init__(self, model: Transformer, prompts: dict[int, Sequence[int]], limit: int, seed: int) -> None:
        self.limit = limit
        self.rows = list(prompts)
        uniforms = [
            torch.rand(limit, generator=torch.Generator().manual_seed(_row_seed(seed, i)), dtype=torch.float64)
            for i in prompts
        ]
        self.device = model.embedding.weight.device
        self.uniforms_BT = torch.stack(uniforms).to(self.device)
        self.tokens: dict[int, list[int]] = {i: [] for i in prompts}
        self.logprobs: dict[int, list[float]] = {i: [] for i in prompts}
        self.decoder = _decoder(model, list(prompts.values()), limit)

    def run(
        self, temperature: float, stop_ids: frozenset[int], on_token: Callable[[int, int], None] | None
    ) -> dict[int, Completion]:
        results: dict[int, Completion] = {}
        logits_BV = self.decoder.read()
        for step in range(self.limit):
            drawn_B = self._draw(logits_BV, temperature, step)
            keep = []
            for row, (index, token) in enumerate(zip(self.rows, drawn_B, strict=True)):
                if on_token is not None:
                    on_token(index, token)
                stopped = token in stop_ids
                if stopped or step + 1 == self.limit:
                    results[index] = Completion(self.tokens[index], self.logprobs[index], stopped)
                else:
                    keep.append(row)
            if not keep:
                break
            if len(keep) < len(self.rows):
                self._keep(keep)
            logits_BV = self.decoder.step([drawn_B[row] for row in keep])
        return results

    def _draw(self, logits_BV: Tensor, temperature: float, step: int) -> list[int]:
        logprobs_BV = logits_BV.log_softmax(-1)
        if temperature == 0.0:
            drawn_B = logits_BV.argmax(-1)
        else:
            cumulative_BV = (logits_BV.double() / temperature).softmax(-1).cumsum(-1)
            threshold_B = self.uniforms_BT[:, step] * cumulative_BV[:, -1]
            drawn_B = (cumulative_BV <= threshold_B.unsqueeze(1)).sum(-1).clamp(max=logits_BV.shape[1] - 1)
        values = logprobs_BV.gather(1, drawn_B.unsqueeze(1)).squeeze(1).tolist()
        tokens: list[int] = drawn_B.tolist()
        for index, token, value in zip(self.rows, tokens, values, strict=True):
            self.tokens[index].append(token)
            self.logprobs[index].append(value)
        return tokens

    def _keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        index_B = torch.tensor(rows, device=self.device)
        self.rows = [self.rows[row] for row in rows]
        self.uniforms_BT = self.uniforms_BT[index_B]
        self.decoder.keep(rows)
