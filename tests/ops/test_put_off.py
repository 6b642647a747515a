"""Gradients of weights that are put off: inputs have theirs at once, weights the same ones later, in order."""

import pytest
import torch
from tiny_models import random_batch, tiny_config, tiny_model

from sapience.model.linear import Precision
from sapience.ops.put_off import Later, expected
from sapience.training.objective import NextTokens


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_divided_backward_pass_is_the_whole_one(precision: Precision) -> None:
    """Of two micro-batches, whose weights' gradients are made after both."""
    gradients = []
    for divided in (False, True):
        model = tiny_model().compute_in(precision)
        later, objective = Later(), NextTokens(0.3, 1e-2)
        for seed in (1, 2):
            with expected():
                loss, _ = objective(model, random_batch(model.config, 2, 17, seed))
            if divided:
                with later.chunk():
                    loss.backward()
            else:
                loss.backward()
        if divided:
            put_off = sum(p.numel() for p in model.parameters() if p.grad is None)
            assert put_off > 0.75 * sum(p.numel() for p in model.parameters())
            assert [len(chunk) > 10 for chunk in later.chunks] == [True, True]
            later.make()
            later.make()
            with pytest.raises(IndexError):
                later.make()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None, name
        assert other is not None, name
        assert torch.equal(gradient, other), name


def test_nothing_is_put_off_where_nobody_expects_it() -> None:
    model = tiny_model(tiny_config(num_hidden_layers=1, first_k_dense_replace=0)).compute_in("bf16")
    later = Later()
    loss, _ = NextTokens(0.3, 1e-2)(model, random_batch(model.config, 2, 17))
    with later.chunk():
        loss.backward()
    assert later.chunks == [[]]
    assert all(p.grad is not None for p in model.parameters())
