"""What the engine needs of a network: latents of new tokens written into pages, logits behind some of them."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sapience.inference.pages import PAGE
from sapience.model.attention import LatentCache
from sapience.model.transformer import Transformer
from sapience.ops.wide_linear import wide_linear

SCORES_AT_ONCE = 1 << 28
"""Attention scores that are held at a time, a gigabyte in float32: a call that needs more is divided."""


class Network(Protocol):
    """A model with a latent cache in pages."""

    at_once: int
    """Tokens of prompts that are worth reading in one call."""

    def forward(
        self, tokens_N: Tensor, positions_N: Tensor, rows_N: Tensor, table_RP: Tensor, wanted: Tensor
    ) -> Tensor:
        """Logits [wanted, V], float32 or wider, behind the wanted ones (indices, ascending) of N new tokens.

        Token i stands at positions[i] of row rows[i], whose pages are table[rows[i]]; a row's tokens stand together and in
        order, and its earlier positions have been read. All on the CPU. Raises IndexError for a token that is none.
        """

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy whole pages."""


class LatentNetwork:
    """By PyTorch, on any device and in any precision: the reference."""

    at_once = 8192

    def __init__(self, model: Transformer, pages: int, positions: int) -> None:
        """A cache of so many pages for rows of at most so many positions."""
        self.model = model
        self.device = model.embedding.weight.device
        config, dtype = model.config, model.number
        self.spare = pages
        """A page that is nobody's: where rows end early, what stands for them is written there."""
        self.caches = [
            LatentCache(
                torch.zeros(pages + 1, PAGE, config.kv_lora_rank, device=self.device, dtype=dtype),
                torch.zeros(pages + 1, PAGE, config.qk_rope_head_dim, device=self.device, dtype=dtype),
            )
            for _ in model.layers
        ]
        self.cosines, self.sines = model.rotary(-(-positions // PAGE) * PAGE)
        self.head_VD = model.head.weight.to(dtype)

    def forward(
        self, tokens_N: Tensor, positions_N: Tensor, rows_N: Tensor, table_RP: Tensor, wanted: Tensor
    ) -> Tensor:
        """See Network."""
        check_tokens(tokens_N, self.model.config.vocab_size)
        count = len(tokens_N)
        rows_R, length_R = rows_N.unique_consecutive(return_counts=True)
        length, reach = int(length_R.max()), int(positions_N.max()) + 1
        scores = len(rows_R) * self.model.config.num_attention_heads * length * reach
        if scores > SCORES_AT_ONCE and count > 1:
            half = count // 2
            first = self.forward(tokens_N[:half], positions_N[:half], rows_N[:half], table_RP, wanted[wanted < half])
            rest = wanted[wanted >= half] - half
            return torch.cat((first, self.forward(tokens_N[half:], positions_N[half:], rows_N[half:], table_RP, rest)))
        index_R = torch.arange(len(rows_R)).repeat_interleave(length_R)
        place_N = torch.arange(count) - (length_R.cumsum(0) - length_R).repeat_interleave(length_R)
        tokens_RT = torch.zeros(len(rows_R), length, dtype=torch.int64)
        positions_RT = torch.zeros(len(rows_R), length, dtype=torch.int64)
        pages_RT = torch.full((len(rows_R), length), self.spare)
        tokens_RT[index_R, place_N], positions_RT[index_R, place_N] = tokens_N.long(), positions_N.long()
        table_RP = table_RP[rows_R.long(), : -(-reach // PAGE)].long()
        pages_RT[index_R, place_N] = table_RP[index_R, positions_N.long() // PAGE]
        hidden_RTD = self._hidden(*(x.to(self.device) for x in (tokens_RT, positions_RT, pages_RT, table_RP)))
        chosen = wanted.long()
        last_BD = hidden_RTD[index_R[chosen].to(self.device), place_N[chosen].to(self.device)]
        logits: Tensor = wide_linear(last_BD, self.head_VD).float()
        return logits

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """See Network."""
        for cache in self.caches:
            for pages in (cache.latent_BSR, cache.rotary_BSP):
                pages[list(target)] = pages[list(source)]

    def _hidden(self, tokens_RT: Tensor, positions_RT: Tensor, pages_RT: Tensor, table_RP: Tensor) -> Tensor:
        """Hidden states after the final norm, whose latents are written to the cache at their positions."""
        cosines, sines = self.cosines[positions_RT], self.sines[positions_RT]
        offsets_RT = positions_RT % PAGE
        mask_RTS = torch.arange(table_RP.shape[1] * PAGE, device=self.device) <= positions_RT.unsqueeze(-1)
        hidden_RTD = self.model.embedded(tokens_RT)
        for layer, cache in zip(self.model.layers, self.caches, strict=True):
            normed = layer.attention_norm(hidden_RTD)  # type: ignore[operator]
            latent, rotary = layer.attention.latents(normed, cosines, sines)  # type: ignore[union-attr, operator]
            cache.latent_BSR[pages_RT, offsets_RT] = latent
            cache.rotary_BSP[pages_RT, offsets_RT] = rotary
            seen = LatentCache(cache.latent_BSR[table_RP].flatten(1, 2), cache.rotary_BSP[table_RP].flatten(1, 2))
            mixed = layer.attention.absorbed(normed, cosines, sines, seen, mask_RTS)  # type: ignore[union-attr, operator]
            hidden_RTD = layer.feed(hidden_RTD + mixed)  # type: ignore[operator]
        normalised: Tensor = self.model.norm(hidden_RTD)
        return normalised


def check_tokens(tokens_N: Tensor, vocabulary: int) -> None:
    """Raises IndexError for one that the model does not have."""
    least, most = (int(end) for end in tokens_N.aminmax())
    if least < 0 or most >= vocabulary:
        raise IndexError(f"token {most if most >= vocabulary else least} is none of the model's {vocabulary}")
