"""Computing in bfloat16 and FP8 with float32 weights: near float32, gradients wide, copies as new as the weights."""

import pytest
import torch
from tiny_models import random_batch, tiny_config, tiny_model

from sapience.inference.generate import generate
from sapience.model.linear import Linear, Precision
from sapience.parallel.executor import PlainLoop
from sapience.recipe.optimization import OptimizerSection
from sapience.training.objective import NextTokens, labelled_tokens
from sapience.training.optimizer import OptimizerSet

CONFIG = tiny_config(num_nextn_predict_layers=1, n_group=1, topk_group=1, n_routed_experts=4, num_experts_per_tok=4)
"""Every token goes to every expert, so that rounding cannot change where."""


def step(precision: Precision) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    model = tiny_model(CONFIG).compute_in(precision)
    batch = random_batch(CONFIG, 6, 14)
    sums = PlainLoop(model, NextTokens(0.3, 0.05)).forward_backward([batch], labelled_tokens([batch]))
    return sums.values, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("precision", "loss", "gradient"), [("bf16", 0.01, 0.02), ("fp8", 0.03, 0.1)])
def test_near_float32_with_wide_gradients(precision: Precision, loss: float, gradient: float) -> None:
    """1 - 2<x,y>/(x²+y²) of all gradients together."""
    exact, wide = step("fp32")
    values, narrow = step(precision)
    assert values["loss"].item() == pytest.approx(exact["loss"].item(), rel=loss)
    assert values["mtp_loss"].item() == pytest.approx(exact["mtp_loss"].item(), rel=loss)
    assert narrow.keys() == wide.keys() and all(one.dtype == torch.float32 for one in narrow.values())
    ours, theirs = (torch.cat([g.flatten() for g in all_.values()]).double() for all_ in (narrow, wide))
    assert float(1 - 2 * (ours * theirs).sum() / (ours.square().sum() + theirs.square().sum())) < gradient


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_micro_batches_add_up(precision: Precision) -> None:
    """Gradients of two halves add up to those of the whole, to rounding: tiles of activations do not cross rows."""
    whole = step(precision)[1]
    model = tiny_model(CONFIG).compute_in(precision)
    batch = random_batch(CONFIG, 6, 14)
    parts = [
        type(batch)(*(tensor[part] for tensor in (batch.tokens_BT, batch.labels_BT, batch.documents_BT)))
        for part in (slice(0, 3), slice(3, 6))
    ]
    PlainLoop(model, NextTokens(0.3, 0.05)).forward_backward(parts, labelled_tokens(parts))
    for name, parameter in model.named_parameters():
        if name in whole and whole[name].norm() > 1e-6:
            assert parameter.grad is not None
            assert (parameter.grad - whole[name]).norm() < (0.05 if precision == "bf16" else 0.2) * whole[
                name
            ].norm(), name


@pytest.mark.parametrize("optimizer", [{"moments": "bf16"}, {}, {"name": "muon"}], ids=str)
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_copies_follow_the_weights(precision: Precision, optimizer: dict[str, str]) -> None:
    """After an update, and after weights were loaded, a pass computes with the new weights; nothing of it is saved."""
    tokens = torch.arange(12).view(1, 12) % CONFIG.vocab_size
    model = tiny_model(CONFIG).compute_in(precision)
    assert model.state_dict().keys() == tiny_model(CONFIG).state_dict().keys()
    before = model.hidden(tokens).detach()
    moving = OptimizerSet(model, OptimizerSection.model_validate(optimizer))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    moving.step(0.1)
    after = model.hidden(tokens).detach()
    fresh = tiny_model(CONFIG, seed=5)
    fresh.load_state_dict(model.state_dict())
    assert not torch.equal(before, after)
    assert torch.equal(after, fresh.compute_in(precision).hidden(tokens).detach())
    assert not torch.equal(after, fresh.compute_in("fp32").hidden(tokens).detach())
    assert fresh.hidden(tokens).dtype == torch.float32


def test_which_products_are_in_fp8() -> None:
    """Linear layers of attention and feed-forward, and the experts; not embedding, head, gate, norms and the module's join."""
    model = tiny_model(CONFIG).compute_in("fp8")
    precisions = {name: module.copy.precision for name, module in model.named_modules() if isinstance(module, Linear)}
    assert all(precision == ("bf16" if name.endswith("join") else "fp8") for name, precision in precisions.items())
    assert {name.rsplit(".", 1)[-1] for name in precisions} == {
        "q_down", "q_up", "kv_down", "kv_up", "out", "gate_up", "down", "join"
    }  # fmt: skip
    assert all(block.experts.multiple == 128 for block in model.gates())
    assert not isinstance(model.head, Linear)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_model_writes_in_a_narrow_precision(precision: Precision) -> None:
    model = tiny_model(CONFIG).compute_in(precision)
    written = generate(model, [[1, 2, 3], [4, 5]], 6, temperature=0.0, stop_ids=frozenset(), seed=0)
    assert [len(completion.tokens) for completion in written] == [6, 6]


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_copies_made_while_sampling_are_good_for_training(precision: Precision) -> None:
    model = tiny_model(CONFIG).compute_in(precision)
    batch = random_batch(CONFIG, 4, 10)
    for _ in range(2):
        PlainLoop(model, NextTokens(0.3, 0.05)).forward_backward([batch], labelled_tokens([batch]))
        OptimizerSet(model, OptimizerSection()).step(0.01)
        generate(model, [[1, 2, 3]], 2, temperature=0.0, stop_ids=frozenset(), seed=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_steps_of_a_block_one_by_one_are_the_block(precision: Precision) -> None:
    """What a schedule will interleave, in order, in value and gradient; the block itself keeps no copies of the tokens."""
    model = tiny_model(tiny_config()).compute_in(precision)
    block, batch = model.gates()[0], random_batch(model.config, 3, 10)
    context = model.context(batch)
    results = []
    for whole in (True, False):
        hidden = model.embedded(batch.tokens_BT).detach().requires_grad_()
        if whole:
            out = block(hidden, context)[0]
        else:
            attended = block.attend(hidden, context)
            x = block.normalise(attended)
            routing, order = block.route(x)
            rows, weights = block.dispatch(x, routing, order)
            assert block.shared is not None
            out = block.combine(attended, block.expert(rows, weights, order), order, block.shared(x))
        results.append((out, *torch.autograd.grad(out.float().square().sum(), (hidden, *block.experts.parameters()))))
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    assert all((one - other).norm() <= tolerance * other.norm() for one, other in zip(*results, strict=True))
