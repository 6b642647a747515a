"""Queries, keys and values unfolded in FP8: what linear layer, rotation and joining make one after another."""

import pytest
import torch
from torch import Tensor

from sapience.ops import fp8_heads, fp8_tiles
from sapience.ops.fp8_heads import fp8_keys_values, fp8_queries
from sapience.ops.fp8_layers import fp8_linear
from sapience.ops.rotary import rotate

BATCHES, LENGTH, HEADS, RANK, NOPE, ROTARY, VALUE = 2, 75, 3, 72, 40, 24, 56


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in bfloat16, one column much larger."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., shape[-1] // 3] *= 60
    return x.bfloat16()


def angles(per_row: bool) -> tuple[Tensor, Tensor]:
    shape = (BATCHES, LENGTH, ROTARY // 2) if per_row else (LENGTH, ROTARY // 2)
    turned = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 6
    return turned.cos(), turned.sin()


def difference(x: Tensor, y: Tensor) -> float:
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    return float(1 - 2 * (x * y).sum() / (x.square().sum() + y.square().sum()))


@pytest.mark.parametrize("per_row", [False, True])
def test_queries(per_row: bool) -> None:
    cosines, sines = angles(per_row)
    width = NOPE + ROTARY
    latent = drawn(BATCHES, LENGTH, RANK).requires_grad_()
    weight = (torch.randn(HEADS * width, RANK) * 0.1).requires_grad_()
    blocks = fp8_tiles.quantize_weight(weight.detach().unsqueeze(0))
    ours = fp8_queries(latent, weight, blocks, cosines, sines, HEADS)
    nope, rotary = fp8_linear(latent, weight, blocks).unflatten(-1, (HEADS, -1)).split((NOPE, ROTARY), dim=-1)
    theirs = torch.cat((nope, rotate(rotary, cosines, sines)), dim=-1)
    assert torch.equal(ours, theirs)
    slope = drawn(BATCHES, LENGTH, HEADS, width, seed=2)
    for one, other in zip(
        torch.autograd.grad(ours, (latent, weight), slope),
        torch.autograd.grad(theirs, (latent, weight), slope),
        strict=True,
    ):
        assert one.dtype == other.dtype and float(other.abs().max()) > 0
        assert difference(one, other) < 1e-6


def test_keys_and_values() -> None:
    latent = drawn(BATCHES, LENGTH, RANK).requires_grad_()
    shared = drawn(BATCHES, LENGTH, ROTARY, seed=3).requires_grad_()
    weight = (torch.randn(HEADS * (NOPE + VALUE), RANK) * 0.1).requires_grad_()
    blocks = fp8_tiles.quantize_weight(weight.detach().unsqueeze(0))
    ours = fp8_keys_values(latent, shared, weight, blocks, HEADS, NOPE)
    nope, values = fp8_linear(latent, weight, blocks).unflatten(-1, (HEADS, -1)).split((NOPE, VALUE), dim=-1)
    theirs = torch.cat((nope, shared.unsqueeze(2).expand(-1, -1, HEADS, -1)), dim=-1), values
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    slopes = drawn(BATCHES, LENGTH, HEADS, NOPE + ROTARY, seed=4), drawn(BATCHES, LENGTH, HEADS, VALUE, seed=5)
    inputs = latent, shared, weight
    for one, other in zip(
        torch.autograd.grad(ours, inputs, slopes), torch.autograd.grad(theirs, inputs, slopes), strict=True
    ):
        assert one.dtype == other.dtype and float(other.abs().max()) > 0
        assert difference(one, other) < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
    reason="needs a GPU with FP8 tensor cores",
)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("sizes", [(3, 40, 24, 56), (4, 128, 64, 128), (5, 32, 32, 64)])
@pytest.mark.parametrize("heads_first", [False, True])
def test_slopes_have_the_tiles_of_the_reference(
    sizes: tuple[int, int, int, int], per_row: bool, heads_first: bool
) -> None:
    """The same to bfloat16's rounding of rotated numbers, which a GPU does once; however the slopes lie in memory."""
    heads, nope, rotary, value = sizes
    turned = torch.rand((BATCHES, LENGTH, rotary // 2) if per_row else (LENGTH, rotary // 2)) * 6
    cosines, sines = turned.cos(), turned.sin()
    keys, values = drawn(BATCHES, LENGTH, heads, nope + rotary), drawn(BATCHES, LENGTH, heads, value, seed=1)

    def moved(x: Tensor) -> Tensor:
        return x.cuda().transpose(1, 2).contiguous().transpose(1, 2) if heads_first else x.cuda()

    pairs = [
        (
            fp8_heads.quantize_query_slopes(moved(keys), cosines.cuda(), sines.cuda()),
            fp8_heads.quantize_query_slopes(keys, cosines, sines),
        ),
        (
            fp8_heads.quantize_key_value_slopes(moved(keys), moved(values), nope),
            fp8_heads.quantize_key_value_slopes(keys, values, nope),
        ),
    ]
    for ours, theirs in pairs:
        for one, other in zip(ours, theirs, strict=True):
            assert one.elements.shape == other.elements.shape and one.scales.shape == other.scales.shape
            assert difference(fp8_tiles.dequantized(one), fp8_tiles.dequantized(other)) < 1e-4
    exact, expected = pairs[1]
    assert torch.equal(exact[0].elements.cpu().view(torch.uint8), expected[0].elements.view(torch.uint8))
    assert torch.equal(exact[1].elements.cpu().view(torch.uint8), expected[1].elements.view(torch.uint8))
