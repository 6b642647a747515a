"""Blocks of FP8 against a loop over elements, and the property that a dequantized matrix quantizes to the same bytes."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.ops.fp8_blocks import dequantize_blocks, quantize_blocks, scale_shape

E4M3 = sorted(
    {
        float(value)
        for value in torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        if math.isfinite(value)
    }
)
"""All 253 numbers of the format."""


def nearest(x: float) -> list[float]:
    """The one or two numbers of the format nearest to x."""
    gap = min(abs(x - value) for value in E4M3)
    return [value for value in E4M3 if abs(x - value) == gap]


def drawn(rows: int, columns: int, seed: int, outliers: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.006
    if outliers:
        weight[torch.rand(rows, columns, generator=generator) < 0.002] *= 300
    return weight


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (128, 128), (130, 257), (576, 64)])
def test_every_element_is_the_nearest_number_of_the_format(rows: int, columns: int) -> None:
    weight = drawn(rows, columns, 0)
    elements, scale = quantize_blocks(weight)
    assert elements.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
    assert tuple(scale.shape) == scale_shape(rows, columns) == (math.ceil(rows / 128), math.ceil(columns / 128))
    for i, j in product(range(scale.shape[0]), range(scale.shape[1])):
        block = weight[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
        s = float(scale[i, j])
        assert math.frexp(s)[0] == 0.5, "scales are powers of two"
        assert 232 < float(block.abs().max()) / s <= 464
        got = elements[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128].float()
        for x, q in list(zip(block.flatten().tolist(), got.flatten().tolist(), strict=True))[:400]:
            assert q in nearest(max(-448.0, min(448.0, x / s)))
    error = (dequantize_blocks(elements, scale) - weight).abs()
    assert bool((error <= weight.abs() / 16 + scale.max() * 2**-10).all())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    seed=st.integers(0, 10**6),
    power=st.integers(-60, 60),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_what_was_dequantized_quantizes_to_the_same_bytes(
    rows: int, columns: int, seed: int, power: int, dtype: torch.dtype
) -> None:
    elements, scale = quantize_blocks(drawn(rows, columns, seed) * 2.0**power)
    again, scale_again = quantize_blocks(dequantize_blocks(elements, scale, dtype))
    assert torch.equal(scale, scale_again)
    assert torch.equal(elements.view(torch.uint8), again.view(torch.uint8))


@pytest.mark.parametrize("largest", [463.9, 464.0, 464.1, 448.0, 447.9, 232.0, 232.1, 231.9, 240.0, 224.0])
def test_largest_elements_at_the_edges_of_rounding(largest: float) -> None:
    elements, scale = quantize_blocks(torch.tensor([[largest, 1.0, -largest / 3]]))
    again, scale_again = quantize_blocks(dequantize_blocks(elements, scale))
    assert torch.equal(scale, scale_again) and torch.equal(elements.view(torch.uint8), again.view(torch.uint8))
    assert float(scale) == (1.0 if 232 < largest <= 464 else 2.0 if largest > 464 else 0.5)


def test_dequantizing_the_releases_scales_is_element_times_scale() -> None:
    """Scales amax / 448, no powers of two, as the released files have them."""
    weight = drawn(200, 300, 3)
    scale = torch.empty(2, 3)
    elements = torch.empty(200, 300, dtype=torch.float8_e4m3fn)
    expected = torch.empty(200, 300)
    for i, j in product(range(2), range(3)):
        rows, columns = slice(i * 128, min(200, (i + 1) * 128)), slice(j * 128, min(300, (j + 1) * 128))
        scale[i, j] = weight[rows, columns].abs().max() / 448
        elements[rows, columns] = (weight[rows, columns] / scale[i, j]).to(torch.float8_e4m3fn)
        for r, c in product(range(rows.start, rows.stop), range(columns.start, columns.stop)):
            expected[r, c] = elements[r, c].float() * scale[i, j]
    assert torch.equal(dequantize_blocks(elements, scale), expected)
    assert torch.equal(dequantize_blocks(elements, scale, torch.bfloat16), expected.bfloat16())


def test_zeros_stay_zeros_and_what_is_not_finite_is_refused() -> None:
    elements, scale = quantize_blocks(torch.zeros(130, 3))
    assert float(elements.float().abs().max()) == 0 and torch.equal(scale, torch.ones(2, 1))
    for bad in (math.nan, math.inf):
        weight = drawn(4, 4, 0)
        weight[2, 3] = bad
        with pytest.raises(ValueError, match="finite"):
            quantize_blocks(weight)


def test_scales_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\].*\[300, 200\]"):
        dequantize_blocks(torch.zeros(300, 200).to(torch.float8_e4m3fn), torch.ones(1, 2))
