"""Batched generation with a latent cache: prefill in the expanded form's place, then one absorbed step per token.

Rows of a batch may have prompts of different lengths: each keeps its own position, and what lies beyond its length is
masked. A prompt that stands there several times is read once. Finished rows leave the batch, so that a few long answers
do not hold the rest. Every row has random numbers of its own, so a result does not depend on its neighbours. Paged
caches, sharing of mere prefixes and speculation are not covered.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.model.attention import LatentCache
from sapience.model.transformer import Transformer
from sapience.ops.wide_linear import wide_linear


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


class _Batch:
    """Rows that are decoded together."""

    def __init__(self, model: Transformer, prompts: dict[int, Sequence[int]], limit: int, seed: int) -> None:
        self.model = model
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
        different = {tuple(prompt): row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts.values())))}
        self.sources_B = torch.tensor([different[tuple(prompt)] for prompt in prompts.values()], device=self.device)
        longest = max(map(len, different))
        self.lengths_B = torch.tensor([len(prompt) for prompt in different], device=self.device)
        self.prompts_BT = torch.zeros(len(different), longest, dtype=torch.int64, device=self.device)
        for row, prompt in enumerate(different):
            self.prompts_BT[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        capacity = longest + limit
        config, dtype = model.config, model.number
        self.caches = [
            LatentCache(
                torch.zeros(len(different), capacity, config.kv_lora_rank, device=self.device, dtype=dtype),
                torch.zeros(len(different), capacity, config.qk_rope_head_dim, device=self.device, dtype=dtype),
            )
            for _ in model.layers
        ]
        self.cosines, self.sines = model.rotary(capacity)
        self.head_VD = model.head.weight.to(dtype)

    def run(
        self, temperature: float, stop_ids: frozenset[int], on_token: Callable[[int, int], None] | None
    ) -> dict[int, Completion]:
        results: dict[int, Completion] = {}
        positions_BT = torch.arange(self.prompts_BT.shape[1], device=self.device).expand(self.prompts_BT.shape)
        hidden_BTD = self._forward(self.prompts_BT, positions_BT)
        last_BD = hidden_BTD[torch.arange(len(self.lengths_B), device=self.device), self.lengths_B - 1][self.sources_B]
        if len(self.sources_B) > len(self.lengths_B):
            self._select(self.sources_B)
        for step in range(self.limit):
            drawn_B = self._draw(wide_linear(last_BD, self.head_VD).float(), temperature, step)
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
            tokens_B1 = torch.tensor([[drawn_B[row]] for row in keep], device=self.device)
            last_BD = self._forward(tokens_B1, self.lengths_B.unsqueeze(1))[:, 0]
            self.lengths_B = self.lengths_B + 1
        return results

    def _forward(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Hidden states of new tokens, whose latents are written to the cache at their positions."""
        cosines, sines = self.cosines[positions_BT], self.sines[positions_BT]
        reach = int(positions_BT.max()) + 1
        mask_BTS = torch.arange(reach, device=self.device) <= positions_BT.unsqueeze(-1)
        rows = torch.arange(tokens_BT.shape[0], device=self.device).unsqueeze(1)
        hidden_BTD = self.model.embedded(tokens_BT)
        for layer, cache in zip(self.model.layers, self.caches, strict=True):
            normed = layer.attention_norm(hidden_BTD)  # type: ignore[operator]
            latent, rotary = layer.attention.latents(normed, cosines, sines)  # type: ignore[union-attr, operator]
            cache.latent_BSR[rows, positions_BT] = latent
            cache.rotary_BSP[rows, positions_BT] = rotary
            seen = LatentCache(cache.latent_BSR[:, :reach], cache.rotary_BSP[:, :reach])
            mixed = layer.attention.absorbed(normed, cosines, sines, seen, mask_BTS)  # type: ignore[union-attr, operator]
            hidden_BTD = layer.feed(hidden_BTD + mixed)  # type: ignore[operator]
        normalised: Tensor = self.model.norm(hidden_BTD)
        return normalised

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
        self._select(index_B)

    def _select(self, index_B: Tensor) -> None:
        self.lengths_B = self.lengths_B[index_B]
        self.caches = [LatentCache(c.latent_BSR[index_B], c.rotary_BSP[index_B]) for c in self.caches]
