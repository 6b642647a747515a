"""The linear layers that unfold attention's queries, keys and values from their latents, in FP8.

What attention takes is no plain linear layer's result: queries have a part that is rotated, keys one that all heads share
and that is joined to each, values lie between. So the gradients come back in other shapes; here they are rotated back,
joined and quantized in one go, where `fp8_linear` would have them written, read and written once more.
"""

from typing import Any

import torch
from torch import Tensor

from sapience.ops.fp8_products import product, weight_product
from sapience.ops.fp8_tiles import Tiles, WeightBlocks, columns_reference, quantize_rows, rows_reference, turn
from sapience.ops.rotary import rotate


def fp8_queries(
    latent_BTR: Tensor, weight_JR: Tensor, blocks: WeightBlocks, cosines: Tensor, sines: Tensor, heads: int
) -> Tensor:
    """Every head's queries [B,T,H,d] in bfloat16, the last P numbers of each rotated by cosines and sines [..., T, P/2]."""
    queries: Tensor = _Queries.apply(latent_BTR, weight_JR, *blocks.parts, cosines, sines, heads)
    return queries


def fp8_keys_values(
    latent_BTR: Tensor, rotary_BTP: Tensor, weight_JR: Tensor, blocks: WeightBlocks, heads: int, nope: int
) -> tuple[Tensor, Tensor]:
    """Every head's keys [B,T,H,nope+P], the shared rotated part joined to each, and values [B,T,H,v]; in bfloat16."""
    keys, values = _KeysValues.apply(latent_BTR, rotary_BTP, weight_JR, *blocks.parts, heads, nope)
    return keys, values


def quantize_query_slopes(slopes_BTHd: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tiles, Tiles]:
    """Tiles along and across of [B·T, H·d]: the slopes with their last numbers rotated back."""
    nope = slopes_BTHd.shape[3] - 2 * cosines.shape[-1]
    if slopes_BTHd.is_cuda and nope % 2 == 0:
        from sapience.ops import fp8_heads_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

        made = fp8_heads_kernel.quantize_queries(slopes_BTHd, cosines, sines)
        return Tiles(*made[:2]), Tiles(*made[2:])
    back = rotate(slopes_BTHd[..., nope:], cosines, -sines)
    return _both(torch.cat((slopes_BTHd[..., :nope], back), dim=-1))


def quantize_key_value_slopes(keys_BTHd: Tensor, values_BTHv: Tensor, nope: int) -> tuple[Tiles, Tiles]:
    """Tiles along and across of [B·T, H·(nope + v)]: the keys' slopes without their shared part, beside the values'."""
    if keys_BTHd.is_cuda:
        from sapience.ops import fp8_heads_kernel

        made = fp8_heads_kernel.quantize_keys_values(keys_BTHd, values_BTHv, nope)
        return Tiles(*made[:2]), Tiles(*made[2:])
    return _both(torch.cat((keys_BTHd[..., :nope], values_BTHv), dim=-1))


def _both(slopes_BTHd: Tensor) -> tuple[Tiles, Tiles]:
    rows = slopes_BTHd.flatten(0, 1).flatten(1)
    return rows_reference(rows), columns_reference(rows)


def _unfolded(latent_BTR: Tensor, elements: Tensor, scales: Tensor, heads: int, outputs: int) -> tuple[Tensor, Tiles]:
    """[B,T,H,outputs/H], and the latent's tiles."""
    tiles = quantize_rows(latent_BTR.flatten(0, 1))
    y = product(tiles, elements[0], scales[0])[: latent_BTR.shape[0] * latent_BTR.shape[1], :outputs]
    return y.reshape(*latent_BTR.shape[:2], heads, -1), tiles


def _gradients(
    slopes: tuple[Tiles, Tiles], tiles: Tiles, turned: Tensor, turned_scales: Tensor, shape: torch.Size, outputs: int
) -> tuple[Tensor, Tensor]:
    """The latent's and the weight's."""
    gradient = product(slopes[0], turned[0], turned_scales[0])[: shape[0] * shape[1], : shape[2]].reshape(shape)
    return gradient, weight_product(slopes[1], turn(tiles))[:outputs, : shape[2]]


class _Queries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        latent_BTR: Tensor,
        weight_JR: Tensor,
        elements: Tensor,
        scales: Tensor,
        turned: Tensor,
        turned_scales: Tensor,
        cosines: Tensor,
        sines: Tensor,
        heads: int,
    ) -> Tensor:
        q_BTHd, tiles = _unfolded(latent_BTR, elements, scales, heads, weight_JR.shape[0])
        ctx.save_for_backward(tiles.elements, tiles.scales, turned, turned_scales, cosines, sines)
        ctx.shape, ctx.outputs = latent_BTR.shape, weight_JR.shape[0]
        nope = q_BTHd.shape[3] - 2 * cosines.shape[-1]
        return torch.cat((q_BTHd[..., :nope], rotate(q_BTHd[..., nope:], cosines, sines)), dim=-1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        elements, scales, turned, turned_scales, cosines, sines = ctx.saved_tensors
        both = quantize_query_slopes(slopes[0], cosines, sines)
        found = _gradients(both, Tiles(elements, scales), turned, turned_scales, ctx.shape, ctx.outputs)
        return *found, *[None] * 7


class _KeysValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        latent_BTR: Tensor,
        rotary_BTP: Tensor,
        weight_JR: Tensor,
        elements: Tensor,
        scales: Tensor,
        turned: Tensor,
        turned_scales: Tensor,
        heads: int,
        nope: int,
    ) -> tuple[Tensor, Tensor]:
        kv_BTHd, tiles = _unfolded(latent_BTR, elements, scales, heads, weight_JR.shape[0])
        ctx.save_for_backward(tiles.elements, tiles.scales, turned, turned_scales)
        ctx.shape, ctx.outputs, ctx.nope = latent_BTR.shape, weight_JR.shape[0], nope
        shared = rotary_BTP.unsqueeze(2).expand(-1, -1, heads, -1)
        return torch.cat((kv_BTHd[..., :nope], shared), dim=-1), kv_BTHd[..., nope:]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        elements, scales, turned, turned_scales = ctx.saved_tensors
        keys, values = slopes
        both = quantize_key_value_slopes(keys, values, ctx.nope)
        latent, weight = _gradients(both, Tiles(elements, scales), turned, turned_scales, ctx.shape, ctx.outputs)
        return latent, keys[..., ctx.nope :].sum(2), weight, *[None] * 6
