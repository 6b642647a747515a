"""What the engine needs of a network: latents of new tokens written into pages, logits behind some of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sapience.inference.pages import PAGE
from sapience.model.attention import LatentCache
from sapience.model.transformer import PredictionModule, Transformer
from sapience.ops.wide_linear import wide_linear

SCORES_AT_ONCE = 1 << 28
"""Attention scores that are held at a time, a gigabyte in float32: a call that needs more is divided."""


class Places(NamedTuple):
    """Where N new tokens stand; all on the CPU. A row's tokens stand together and in order, and what is before them has been
    read."""

    positions_N: Tensor
    """In their sequences."""
    rows_N: Tensor
    """Which row of the table a sequence is."""
    table_RP: Tensor
    """The pages of every sequence in order."""


class Passed(NamedTuple):
    """What comes out of a forward pass."""

    logits: Tensor
    """Behind the wanted tokens, [wanted, V], float32 or wider."""
    states_ND: Tensor | None
    """Of all tokens after the final norm, where the network was made for drafts."""


class Network(Protocol):
    """A model with a latent cache in pages."""

    at_once: int
    """Tokens of prompts that are worth reading in one call."""
    asynchronous: bool
    """Whether a call comes back before its work is done, so that the next one is better made early."""

    def forward(self, tokens_N: Tensor, places: Places, wanted: Tensor) -> Passed:
        """N new tokens, of which the wanted (indices, ascending) get logits. Raises IndexError for a token that is none."""

    def predict(self, tokens_N: Tensor, places: Places, wanted: Tensor, states_ND: Tensor) -> Passed:
        """The same by the first prediction module, for networks made for drafts: state i stands at positions[i], and tokens[i]
        is the one behind it; logits are of the next one but one. Its own states can be given again, to go on from."""

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy whole pages."""


class LatentNetwork:
    """By PyTorch, on any device and in any precision: the reference."""

    at_once = 8192
    asynchronous = False

    def __init__(self, model: Transformer, pages: int, positions: int, drafts: bool = False) -> None:
        """A cache of so many pages for rows of at most so many positions; with room for a prediction module, for drafts."""
        self.model, self.drafts = model, drafts
        self.device = model.embedding.weight.device
        config, dtype = model.config, model.number
        self.spare = pages
        """A page that is nobody's: where rows end early, what stands for them is written there."""
        self.caches = [
            LatentCache(
                torch.zeros(pages + 1, PAGE, config.kv_lora_rank, device=self.device, dtype=dtype),
                torch.zeros(pages + 1, PAGE, config.qk_rope_head_dim, device=self.device, dtype=dtype),
            )
            for _ in range(len(model.layers) + drafts)
        ]
        self.cosines, self.sines = model.rotary(-(-positions // PAGE) * PAGE)
        self.head_VD = model.head.weight.to(dtype)

    def forward(self, tokens_N: Tensor, places: Places, wanted: Tensor) -> Passed:
        """See Network."""
        return self._run(tokens_N, places, wanted, None)

    def predict(self, tokens_N: Tensor, places: Places, wanted: Tensor, states_ND: Tensor) -> Passed:
        """See Network."""
        return self._run(tokens_N, places, wanted, states_ND)

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """See Network."""
        for cache in self.caches:
            for pages in (cache.latent_BSR, cache.rotary_BSP):
                pages[list(target)] = pages[list(source)]

    def _run(self, tokens_N: Tensor, places: Places, wanted: Tensor, given_ND: Tensor | None) -> Passed:
        check_tokens(tokens_N, self.model.config.vocab_size)
        positions_N, rows_N, table_RP = places
        rows_R, length_R = rows_N.unique_consecutive(return_counts=True)
        count, length, reach = len(tokens_N), int(length_R.max()), int(positions_N.max()) + 1
        if len(rows_R) * self.model.config.num_attention_heads * length * reach > SCORES_AT_ONCE and count > 1:
            half = count // 2
            parts = [
                self._run(
                    tokens_N[piece],
                    Places(positions_N[piece], rows_N[piece], table_RP),
                    asked,
                    None if given_ND is None else given_ND[piece],
                )
                for piece, asked in (
                    (slice(half), wanted[wanted < half]),
                    (slice(half, None), wanted[wanted >= half] - half),
                )
            ]
            states = [part.states_ND for part in parts if part.states_ND is not None]
            return Passed(torch.cat([part.logits for part in parts]), torch.cat(states) if states else None)
        index_R = torch.arange(len(rows_R)).repeat_interleave(length_R)
        place_N = torch.arange(count) - (length_R.cumsum(0) - length_R).repeat_interleave(length_R)
        tokens_RT = torch.zeros(len(rows_R), length, dtype=torch.int64)
        positions_RT = torch.zeros(len(rows_R), length, dtype=torch.int64)
        pages_RT = torch.full((len(rows_R), length), self.spare)
        tokens_RT[index_R, place_N], positions_RT[index_R, place_N] = tokens_N.long(), positions_N.long()
        table_RP = table_RP[rows_R.long(), : -(-reach // PAGE)].long()
        pages_RT[index_R, place_N] = table_RP[index_R, positions_N.long() // PAGE]
        at = index_R.to(self.device), place_N.to(self.device)
        hidden_RTD = self.model.embedded(tokens_RT.to(self.device))
        if given_ND is not None:
            given_RTD = torch.zeros_like(hidden_RTD)
            given_RTD[at] = given_ND
            hidden_RTD = self._module.joined(given_RTD, hidden_RTD)
        positions_RT, pages_RT, table_RP = (x.to(self.device) for x in (positions_RT, pages_RT, table_RP))
        states_ND = self._states(hidden_RTD, positions_RT, pages_RT, table_RP, given_ND is not None)[at]
        logits: Tensor = wide_linear(states_ND[wanted.long().to(self.device)], self.head_VD).float()
        return Passed(logits, states_ND if self.drafts else None)

    @property
    def _module(self) -> PredictionModule:
        module = self.model.predictions[0]
        assert isinstance(module, PredictionModule)
        return module

    def _states(
        self, hidden_RTD: Tensor, positions_RT: Tensor, pages_RT: Tensor, table_RP: Tensor, predicts: bool
    ) -> Tensor:
        """After the final norm, of the main model or of its prediction module; latents are written at their positions."""
        cosines, sines = self.cosines[positions_RT], self.sines[positions_RT]
        offsets_RT = positions_RT % PAGE
        mask_RTS = torch.arange(table_RP.shape[1] * PAGE, device=self.device) <= positions_RT.unsqueeze(-1)
        main = len(self.model.layers)
        layers: list[Any] = [self._module.block] if predicts else list(self.model.layers)
        for layer, cache in zip(layers, self.caches[main:] if predicts else self.caches[:main], strict=True):
            normed = layer.attention_norm(hidden_RTD)
            latent, rotary = layer.attention.latents(normed, cosines, sines)
            cache.latent_BSR[pages_RT, offsets_RT] = latent
            cache.rotary_BSP[pages_RT, offsets_RT] = rotary
            seen = LatentCache(cache.latent_BSR[table_RP].flatten(1, 2), cache.rotary_BSP[table_RP].flatten(1, 2))
            mixed = layer.attention.absorbed(normed, cosines, sines, seen, mask_RTS)
            hidden_RTD = layer.feed(hidden_RTD + mixed)
        normalised: Tensor = (self._module if predicts else self.model).norm(hidden_RTD)
        return normalised


def check_tokens(tokens_N: Tensor, vocabulary: int) -> None:
    """Raises IndexError for one that the model does not have."""
    least, most = (int(end) for end in tokens_N.aminmax())
    if least < 0 or most >= vocabulary:
        raise IndexError(f"token {most if most >= vocabulary else least} is none of the model's {vocabulary}")
