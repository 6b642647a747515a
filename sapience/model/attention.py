"""Multi-head latent attention (DeepSeek-V3 report, section 2.1.1, equations 1-11).

Keys and values are made from one narrow latent per token; position travels in a separate small key that all heads
share. Two forms compute the same: the expanded one, for training, unfolds keys and values for every head; the absorbed
one, for decoding, folds the unfolding matrices into query and output, so that a cache holds the latent and the rotary
key only ((R + P) numbers a token and layer).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapience.model.linear import Linear, RMSNorm
from sapience.model.rope import softmax_scale
from sapience.ops.fp8_heads import fp8_keys_values, fp8_queries
from sapience.ops.fp8_layers import fp8_two_linears
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.masked_attention import Mask, causal_attention, masked_attention
from sapience.ops.rotary import rotate
from sapience.recipe.model import ModelSection


@dataclass(frozen=True)
class LatentCache:
    """What one layer remembers of S positions."""

    latent_BSR: Tensor
    rotary_BSP: Tensor


class LatentAttention(nn.Module):
    """One layer's attention. Linear layers have no biases; both latents are normalised."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.config = config
        heads, rank = config.num_attention_heads, config.kv_lora_rank
        self.nope, self.rope, self.value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
        if config.q_lora_rank is None:
            self.q_proj = Linear(config.hidden_size, heads * config.qk_head_dim)
        else:
            self.q_down = Linear(config.hidden_size, config.q_lora_rank)
            self.q_norm = RMSNorm(config.q_lora_rank, eps=config.rms_norm_eps)
            self.q_up = Linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_down = Linear(config.hidden_size, rank + config.qk_rope_head_dim)
        self.kv_norm = RMSNorm(rank, eps=config.rms_norm_eps)
        self.kv_up = Linear(rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.out = Linear(heads * config.v_head_dim, config.hidden_size)
        self.scale = softmax_scale(config)

    def queries(self, x_BTD: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        """Position-free [B,T,H,nope] and rotated [B,T,H,P] parts of the queries (eqs. 6-9)."""
        return self._queries(self._query(x_BTD), cosines, sines)

    def latents(self, x_BTD: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised latent [B,T,R] and rotated shared key [B,T,P]: what a cache keeps (eqs. 1, 3)."""
        return self._latents(self.kv_down(x_BTD), cosines, sines)

    def _query(self, x_BTD: Tensor) -> Tensor:
        query: Tensor = self.q_proj(x_BTD) if self.config.q_lora_rank is None else self.q_down(x_BTD)
        return query

    def _queries(self, query: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        q = query if self.config.q_lora_rank is None else self.q_up(self.q_norm(query))
        q_BTHd = q.unflatten(-1, (self.config.num_attention_heads, -1))
        nope, rope = q_BTHd.split((self.nope, self.rope), dim=-1)
        return nope, rotate(rope, cosines, sines)

    def _latents(self, key_value: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        latent, rope = key_value.split((self.config.kv_lora_rank, self.rope), dim=-1)
        return self.kv_norm(latent), rotate(rope.unsqueeze(-2), cosines, sines).squeeze(-2)

    def compress(self, x_BTD: Tensor, tiles: Tiles | None = None) -> tuple[Tensor, Tensor]:
        """Query latent (the queries themselves where they are not compressed), and key-value latent beside the shared key.

        `tiles`: x's, for FP8, where they have been made.
        """
        query, latent = self.q_proj if self.config.q_lora_rank is None else self.q_down, self.kv_down
        if latent.copy.precision == "fp8":
            return fp8_two_linears(x_BTD, query.weight, query.copy.blocks, latent.weight, latent.copy.blocks, tiles)
        return query(x_BTD), latent(x_BTD)

    def mix(
        self,
        query: Tensor,
        key_value: Tensor,
        cosines: Tensor,
        sines: Tensor,
        mask: Mask | None,
        key_table: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """From the results of `compress` to every head's mixed values, [B,T,H·d]; a mask takes the place of causality.

        `key_table`: cosines and sines of the keys, where there are more of them than queries.
        """
        q = self._joined_queries(query, cosines, sines)
        k, v = self._keys_values(key_value, *(key_table or (cosines, sines)))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = causal_attention(q, k, v, self.scale) if mask is None else masked_attention(q, k, v, mask, self.scale)
        return mixed.transpose(1, 2).flatten(-2)

    def _joined_queries(self, query: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """[B,T,H,d], both parts of each."""
        if self.config.q_lora_rank is not None and self.q_up.copy.precision == "fp8":
            up, latent = self.q_up, self.q_norm(query)
            return fp8_queries(latent, up.weight, up.copy.blocks, cosines, sines, self.config.num_attention_heads)
        return torch.cat(self._queries(query, cosines, sines), dim=-1)

    def _keys_values(self, key_value: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        """[B,T,H,d] and [B,T,H,v]; every key ends in the shared rotated part."""
        heads, up = self.config.num_attention_heads, self.kv_up
        latent_BTR, rotary_BTP = self._latents(key_value, cosines, sines)
        if up.copy.precision == "fp8":
            return fp8_keys_values(latent_BTR, rotary_BTP, up.weight, up.copy.blocks, heads, self.nope)
        nope, values = up(latent_BTR).unflatten(-1, (heads, -1)).split((self.nope, self.value), dim=-1)
        return torch.cat((nope, rotary_BTP.unsqueeze(-2).expand(-1, -1, heads, -1)), dim=-1), values

    def absorbed(self, x_BTD: Tensor, cosines: Tensor, sines: Tensor, cache: LatentCache, mask_BTS: Tensor) -> Tensor:
        """Attention of x over a cache that already holds x's own latents, in the absorbed form.

        mask_BTS is True where query t may see cached position s. Softmax in float32.
        """
        heads = self.config.num_attention_heads
        q_nope, q_rope = self.queries(x_BTD, cosines, sines)
        up_HdR = self.kv_up.matrix.view(heads, self.nope + self.value, -1)
        q_latent = torch.einsum("bthd,hdr->bhtr", q_nope, up_HdR[:, : self.nope])
        scores = torch.einsum("bhtr,bsr->bhts", q_latent, cache.latent_BSR)
        scores = scores + torch.einsum("bthp,bsp->bhts", q_rope, cache.rotary_BSP)
        scores = (scores * self.scale).float().masked_fill(~mask_BTS.unsqueeze(1), float("-inf"))
        mixed = torch.einsum("bhts,bsr->bthr", scores.softmax(-1).to(x_BTD.dtype), cache.latent_BSR)
        values = torch.einsum("bthr,hdr->bthd", mixed, up_HdR[:, self.nope :])
        merged: Tensor = self.out(values.flatten(-2))
        return merged
