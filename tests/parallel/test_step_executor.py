"""The step executor's contract: one gradient and one set of sums, however a step is cut."""

from typing import Any

import pytest
import torch
from tiny_models import random_batch, tiny_config, tiny_model
from torch.utils.checkpoint import checkpoint

from sapience.model.batch import Microbatch
from sapience.model.transformer import Transformer
from sapience.parallel.executor import PlainLoop, Sums
from sapience.training.loop import update_biases
from sapience.training.objective import NextTokens, labelled_tokens

CONFIG = tiny_config(num_nextn_predict_layers=2)
Gradients = dict[str, torch.Tensor]


def cut(batch: Microbatch, sizes: list[int]) -> list[Microbatch]:
    pieces = [part.split(sizes) for part in (batch.tokens_BT, batch.labels_BT, batch.documents_BT)]
    return [Microbatch(*parts, batch.isolate) for parts in zip(*pieces, strict=True)]


def step(batches: list[Microbatch], model: Transformer | None = None) -> tuple[Sums, Gradients]:
    """Sums and gradients of one step, in float64, with every loss term switched on."""
    model = model or tiny_model(CONFIG, dtype=torch.float64)
    sums = PlainLoop(model, NextTokens(prediction_weight=0.3, alpha=0.05)).forward_backward(
        batches, labelled_tokens(batches)
    )
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return sums, gradients


def assert_same(one: tuple[Sums, Gradients], other: tuple[Sums, Gradients]) -> None:
    for name, value in one[0].values.items():
        assert value.item() == pytest.approx(other[0].values[name].item(), rel=1e-10)
    assert torch.equal(one[0].loads_LE, other[0].loads_LE)
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], rtol=1e-8, atol=1e-12), name


def test_the_sums_are_there() -> None:
    batch = random_batch(CONFIG, 6, 14)
    sums, _ = step([batch])
    assert set(sums.values) == {"loss", "mtp_loss", "balance_loss"}
    assert all(value.item() > 0 for value in sums.values.values())
    per_layer = sums.loads_LE.sum(1)
    assert sums.loads_LE.shape == (4, CONFIG.n_routed_experts)
    assert per_layer[0] == batch.valid_BT.sum() * CONFIG.num_experts_per_tok


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 2, 2], [5, 1], [1, 3, 2]], ids=str)
def test_micro_batches_of_any_size_are_one_big_batch(sizes: list[int]) -> None:
    batch = random_batch(CONFIG, 6, 14)
    assert_same(step([batch]), step(cut(batch, sizes)))


def test_rows_in_another_order_are_the_same_step() -> None:
    batch = random_batch(CONFIG, 6, 14)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    other = Microbatch(batch.tokens_BT[order], batch.labels_BT[order], batch.documents_BT[order])
    assert_same(step([batch]), step([other]))


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("more", [1, 9])
def test_longer_padding_is_the_same_step(isolate: bool, more: int) -> None:
    batch = random_batch(CONFIG, 4, 14, isolate=isolate)

    def longer(part: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.nn.functional.pad(part, (0, more), value=fill)

    padded = Microbatch(
        longer(batch.tokens_BT, 2), longer(batch.labels_BT, -100), longer(batch.documents_BT, -1), isolate
    )
    assert_same(step([batch]), step([padded]))


def test_a_row_of_nothing_but_padding_changes_nothing() -> None:
    batch = random_batch(CONFIG, 4, 14)
    empty = Microbatch(torch.full((2, 14), 2), torch.full((2, 14), -100), torch.full((2, 14), -1, dtype=torch.int32))
    assert_same(step([batch]), step([batch, empty]))


def test_a_step_adds_to_gradients_that_are_there_and_divides_by_the_denominator() -> None:
    batch = random_batch(CONFIG, 4, 14)
    model = tiny_model(CONFIG, dtype=torch.float64)
    loop = PlainLoop(model, NextTokens(0.3, 0.05))
    loop.forward_backward([batch], 10.0)
    once = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loop.forward_backward([batch], 5.0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, 3 * once[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("denominator", [0.0, -1.0, float("nan")])
def test_an_empty_step_is_refused(denominator: float) -> None:
    loop = PlainLoop(tiny_model(CONFIG), NextTokens(0.3, 0.0))
    with pytest.raises(ValueError, match="denominator"):
        loop.forward_backward([random_batch(CONFIG, 1, 4)], denominator)
    with pytest.raises(ValueError, match="micro-batches"):
        loop.forward_backward([], 1.0)


def test_load_is_counted_once_and_biases_move_once_where_layers_are_recomputed() -> None:
    batches = cut(random_batch(CONFIG, 6, 14), [2, 4])
    plain = tiny_model(CONFIG, dtype=torch.float64)
    recomputing = tiny_model(CONFIG, dtype=torch.float64)
    passes = 0

    def recomputed(forward: Any) -> Any:
        def run(*arguments: Any) -> Any:
            nonlocal passes
            passes += 1
            return forward(*arguments)

        return lambda *arguments: checkpoint(run, *arguments, use_reentrant=False)

    for block in [*recomputing.layers, *(module.block for module in recomputing.predictions)]:
        block.forward = recomputed(block.forward)
    one, other = step(batches, plain), step(batches, recomputing)
    assert passes == 2 * len(batches) * (len(recomputing.layers) + len(recomputing.predictions))
    assert_same(one, other)
    for model, sums in ((plain, one[0]), (recomputing, other[0])):
        update_biases(model, sums, 0.01)
    for a, b in zip(plain.gates(), recomputing.gates(), strict=True):
        assert torch.equal(a.gate.bias_E, b.gate.bias_E)


def test_biases_move_by_gamma_along_the_sign_of_the_whole_steps_load() -> None:
    batches = cut(random_batch(CONFIG, 6, 14), [2, 4])
    model = tiny_model(CONFIG, dtype=torch.float64)
    before = [block.gate.bias_E.clone() for block in model.gates()]
    sums, _ = step(batches, model)
    update_biases(model, sums, 0.01)
    for block, old, loads in zip(model.gates(), before, sums.loads_LE, strict=True):
        mean = float(loads.mean())
        for expert in range(CONFIG.n_routed_experts):
            moved = float(block.gate.bias_E[expert] - old[expert])
            sign = (mean > float(loads[expert])) - (mean < float(loads[expert]))
            assert moved == pytest.approx(0.01 * sign, abs=1e-9)
