"""What drawing needs of a network: prompts read, a token more for each row, rows that leave."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sapience.model.attention import LatentCache
from sapience.model.transformer import Transformer
from sapience.ops.wide_linear import wide_linear

SCORES_AT_ONCE = 1 << 28
"""Attention scores that are held at a time while prompts are read, a gigabyte in float32: what is longer is read in pieces."""


class Decoder(Protocol):
    """Rows that are decoded together, each with its latents. A prompt that stands there several times is read once."""

    def read(self) -> Tensor:
        """Logits behind every row's prompt, [rows, V] in float32 or wider; to be called first."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits behind one more token of every row."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""


class LatentDecoder:
    """By PyTorch, on any device and in any precision: the reference."""

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], limit: int) -> None:
        """Room for `limit` tokens behind each prompt."""
        self.model = model
        self.device = model.embedding.weight.device
        different = {tuple(prompt): row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        self.sources_B = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=self.device)
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

    def read(self) -> Tensor:
        """See Decoder."""
        rows, length = self.prompts_BT.shape
        positions_BT = torch.arange(length, device=self.device).expand(rows, length)
        at_once = max(1, SCORES_AT_ONCE // (rows * self.model.config.num_attention_heads * length))
        last_BD = torch.empty(rows, self.model.config.hidden_size, device=self.device, dtype=self.model.number)
        for start in range(0, length, at_once):
            piece = slice(start, start + at_once)
            hidden_BTD = self._forward(self.prompts_BT[:, piece], positions_BT[:, piece])
            place_B = self.lengths_B - 1 - start
            here_B1 = ((place_B >= 0) & (place_B < hidden_BTD.shape[1])).unsqueeze(1)
            place_B = place_B.clamp(0, hidden_BTD.shape[1] - 1)
            last_BD = torch.where(here_B1, hidden_BTD[torch.arange(rows, device=self.device), place_B], last_BD)
        last_BD = last_BD[self.sources_B]
        if len(self.sources_B) > len(self.lengths_B):
            self._select(self.sources_B)
        return self._logits(last_BD)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See Decoder."""
        tokens_B1 = torch.tensor(tokens, device=self.device).unsqueeze(1)
        last_BD = self._forward(tokens_B1, self.lengths_B.unsqueeze(1))[:, 0]
        self.lengths_B = self.lengths_B + 1
        return self._logits(last_BD)

    def keep(self, rows: Sequence[int]) -> None:
        """See Decoder."""
        self._select(torch.tensor(rows, device=self.device))

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        logits: Tensor = wide_linear(hidden_BD, self.head_VD).float()
        return logits

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

    def _select(self, index_B: Tensor) -> None:
        self.lengths_B = self.lengths_B[index_B]
        self.caches = [LatentCache(c.latent_BSR[index_B], c.rotary_BSP[index_B]) for c in self.caches]
