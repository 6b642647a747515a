"""Recomputed parts: the same losses and gradients to the last bit, less memory, compiled as well."""

import pytest
import torch
from living import Living
from tiny_models import tiny_config
from torch import Tensor

from sapience.model.batch import from_rows
from sapience.model.linear import Precision
from sapience.model.transformer import Transformer
from sapience.recipe.compute import RecomputedPart
from sapience.training.objective import NextTokens

PARTS: list[list[RecomputedPart]] = [["norms"], ["attention_up"], ["norms", "attention_up"]]


def trained(parts: list[RecomputedPart], precision: Precision, compiled: bool = False) -> tuple[list[Tensor], int]:
    """Loss and gradients of a batch, and the bytes kept between the passes (0 where compiled)."""
    smaller = {"num_nextn_predict_layers": 0, "num_hidden_layers": 2} if compiled else {}
    model = Transformer(tiny_config(**smaller)).initialize(0).compute_in(precision)
    model.recompute(parts)
    tokens = torch.randint(3, 61, (4, 33), generator=torch.Generator().manual_seed(0))
    batch, living = from_rows(tokens, torch.zeros(4, 33, dtype=torch.int32)), Living()
    if compiled:
        torch._dynamo.reset()
        model.compile_layers()
        loss, _ = NextTokens(0.3, 1e-4)(model, batch)
    else:
        with living:
            loss, _ = NextTokens(0.3, 1e-4)(model, batch)
    kept = living.bytes
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], kept


@pytest.mark.parametrize("parts", PARTS, ids="+".join)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_less_is_kept_and_nothing_changes(precision: Precision, parts: list[RecomputedPart]) -> None:
    (plain, much), (again, less) = trained([], precision), trained(parts, precision)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert less < much


def test_compiled_layers_recompute_too() -> None:
    (plain, _), (again, _) = (
        trained([], "fp32", compiled=True),
        trained(["norms", "attention_up"], "fp32", compiled=True),
    )
    for one, other in zip(plain, again, strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm()
