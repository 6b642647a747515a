"""AdamW and Muon: the update by hand, the orthogonal factor by SVD, clipping, decay, and a state that survives a file."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import random_batch, tiny_config, tiny_model
from torch import nn

from sapience.model.transformer import Transformer
from sapience.recipe.optimization import OptimizerSection
from sapience.training.muon import Muon, orthogonalise
from sapience.training.optimizer import OptimizerSet


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 16), (2, 16, 4)], ids=str)
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(shape: tuple[int, ...]) -> None:
    """Singular vectors stay, singular values come near one: within [0.65, 1.25], where they were not tiny."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    s = s.clamp(min=float(s.max()) / 20)
    matrices = u @ torch.diag_embed(s) @ vt
    out = orthogonalise(matrices, 5)
    in_its_basis = u.mT @ out @ vt.mT
    values = torch.diagonal(in_its_basis, dim1=-2, dim2=-1)
    assert values.min() > 0.65 and values.max() < 1.25
    assert (in_its_basis - torch.diag_embed(values)).abs().max() < 1e-10
    outside = out - u @ in_its_basis @ vt
    assert outside.abs().max() < 1e-10


def test_the_length_of_a_matrix_and_its_neighbours_do_not_matter() -> None:
    matrices = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = orthogonalise(matrices * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1), 5)
    for index in range(3):
        alone = orthogonalise(matrices[index : index + 1], 5)[0]
        assert torch.allclose(together[index], alone, atol=1e-2)
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 4), 5), torch.zeros(1, 4, 4))


def test_muons_update_by_hand() -> None:
    """Two steps of a stack of two matrices: Nesterov momentum, orthogonal factor, scale, decoupled decay."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(2, 3, 5, generator=generator, dtype=torch.float64))
    expected = weight.detach().clone()
    muon = Muon([weight], lr=0.1, momentum=0.9, iterations=5, update=0.2, weight_decay=0.01)
    momentum = torch.zeros_like(expected)
    for _ in range(2):
        gradient = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        weight.grad = gradient.clone()
        muon.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = 0.1 * gradient + 0.9 * momentum
        moves = torch.stack([orthogonalise(one.unsqueeze(0), 5)[0] for one in direction])
        expected = expected * (1 - 0.1 * 0.01) - 0.1 * 0.2 * math.sqrt(5) * moves
        assert torch.allclose(weight, expected, rtol=1e-10)


def test_muons_update_is_about_as_large_as_the_recipe_says() -> None:
    """Root mean square 0.2 whatever the shape, so that it shares AdamW's learning rate."""
    for shape in [(64, 64), (32, 128), (128, 32), (4, 32, 64)]:
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        Muon([weight], lr=1.0, momentum=0.0, iterations=5, update=0.2, weight_decay=0.0).step()
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def gradients_for(model: Transformer, seed: int, scale: float = 1e-4) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def test_adamw_by_hand_decays_matrices_and_not_norms() -> None:
    section = OptimizerSection(weight_decay=0.5)
    model = tiny_model()
    optimizer = OptimizerSet(model, section)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients_for(model, 1)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step(0.01)
    for name, parameter in model.named_parameters():
        decay = 0.5 if parameter.ndim >= 2 else 0.0
        moved = gradients[name] / (gradients[name].abs() + 1e-8)
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * moved
        assert torch.allclose(parameter, expected, atol=1e-6), name
        assert parameter.grad is None


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_embedding_and_head_move_at_rates_of_their_own(name: str, moments: str) -> None:
    """AdamW's first step is as large as the rate, whatever the gradient."""
    section = OptimizerSection.model_validate(
        {"name": name, "moments": moments, "embedding_rate": 20, "head_rate": 0.5, "weight_decay": 0}
    )
    model = tiny_model()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    gradients_for(model, 1)
    OptimizerSet(model, section).step(0.001)
    for key, factor in {
        "embedding.weight": 20,
        "head.weight": 0.5,
        "norm.weight": 1,
        "layers.1.gate.weight_ED": 1,
    }.items():
        moved = (model.get_parameter(key) - before[key]).abs().median()
        assert float(moved) == pytest.approx(0.001 * factor, rel=1e-2), key


def test_moments_in_bfloat16_move_the_weights_as_those_in_float32_do() -> None:
    """The first step to the last bits of float32 (moments are rounded after their use), ten steps nearly; half the memory."""
    models = [tiny_model(), tiny_model()]
    optimizers = [
        OptimizerSet(model, OptimizerSection.model_validate({"moments": moments, "clip": 0.01}))
        for model, moments in zip(models, ("fp32", "bf16"), strict=True)
    ]
    begun = {name: p.detach().clone() for name, p in models[0].named_parameters()}
    for step in range(10):
        for model, optimizer in zip(models, optimizers, strict=True):
            gradients_for(model, step)
            optimizer.step(0.01)
        for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            moved = one - begun[name]
            assert (one - other).norm() <= (1e-5 if step == 0 else 2e-2) * moved.norm(), (step, name)
    sizes = [sum(tensor.nbytes for tensor in optimizer.tensors().values()) for optimizer in optimizers]
    assert sizes[1] < 0.51 * sizes[0]


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_the_norm_is_global_and_the_gradient_is_clipped_to_it(size: float) -> None:
    """The second moment after one step shows the gradient that the optimizer saw."""
    model = tiny_model()
    optimizer = OptimizerSet(model, OptimizerSection(clip=1.0))
    gradients_for(model, 1, 1.0)
    total = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(size / total)
    seen = [p.grad.clone() * min(1.0, 1.0 / size) for p in model.parameters() if p.grad is not None]
    assert float(optimizer.step(0.01)) == pytest.approx(size, rel=1e-4)
    moments = optimizer.tensors()
    for (name, _), gradient in zip(model.named_parameters(), seen, strict=True):
        assert torch.allclose(moments[f"exp_avg/{name}"], 0.1 * gradient, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_norm_of_experts_in_fp8_comes_from_their_products(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients are added up they are read, as all others are; the norm is the same."""
    model = tiny_model(tiny_config(hidden_size=128, moe_intermediate_size=128), deviation=0.05).compute_in("fp8")
    optimizer = OptimizerSet(model, OptimizerSection(moments="bf16"))
    for seed in range(passes):
        model(random_batch(model.config, 2, 32, seed)).hidden_BTD.float().square().sum().backward()
    total = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))
    read: list[int] = []
    whole = torch.nn.utils.get_total_norm
    monkeypatch.setattr(
        "torch.nn.utils.get_total_norm", lambda tensors, **how: read.append(len(tensors)) or whole(tensors, **how)
    )
    given = sum(p.grad is not None for p in model.parameters())
    experts = sum(p.ndim == 3 and p.grad is not None for p in model.parameters())
    assert float(optimizer.step(0.0)) == pytest.approx(total, rel=1e-5)
    assert experts
    assert read == [given - (experts if passes == 1 else 0)]


def test_muon_takes_hidden_matrices_and_leaves_embedding_head_gate_and_norms_to_adamw() -> None:
    model = tiny_model()
    optimizer = OptimizerSet(model, OptimizerSection(name="muon"))
    gradients_for(model, 1)
    optimizer.step(0.01)
    tensors = optimizer.tensors()
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim >= 2 and name not in ("embedding.weight", "head.weight") and "gate.weight" not in name
        assert (f"momentum/{name}" in tensors) == hidden
        assert (f"exp_avg/{name}" in tensors) == (not hidden)
    assert sum(name.startswith("momentum/") for name in tensors) > 20


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_n_and_m_steps_are_n_steps_a_file_and_m_steps(name: str, tied: bool, moments: str, tmp_path: Path) -> None:
    section = OptimizerSection.model_validate({"name": name, "moments": moments})
    config = tiny_config(tie_word_embeddings=tied)

    def steps(model: Transformer, optimizer: OptimizerSet, seeds: range) -> None:
        for seed in seeds:
            gradients_for(model, seed)
            optimizer.step(0.01)

    whole = tiny_model(config)
    steps(whole, OptimizerSet(whole, section), range(7))
    first = tiny_model(config)
    optimizer = OptimizerSet(first, section)
    steps(first, optimizer, range(4))
    save_file(optimizer.tensors(), tmp_path / "optimizer.safetensors")
    second = tiny_model(config, seed=9)
    second.load_state_dict(first.state_dict())
    other = OptimizerSet(second, section)
    other.load(load_file(tmp_path / "optimizer.safetensors"))
    steps(second, other, range(4, 7))
    for one, again in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, again)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(name: str, bad: float, moments: str) -> None:
    model = tiny_model()
    optimizer = OptimizerSet(model, OptimizerSection.model_validate({"name": name, "moments": moments}))
    gradients_for(model, 0)
    optimizer.step(0.01)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    moments = {key: value.clone() for key, value in optimizer.tensors().items()}
    gradients_for(model, 1)
    gradient = next(p.grad for key, p in model.named_parameters() if "kv_up" in key)
    assert gradient is not None
    gradient[0, 0] = bad
    assert not math.isfinite(float(optimizer.step(0.01)))
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, moments[key]) for key, value in optimizer.tensors().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_state_of_another_model_is_refused() -> None:
    model = tiny_model()
    optimizer = OptimizerSet(model, OptimizerSection())
    with pytest.raises(KeyError):
        optimizer.load({"exp_avg/layers.99.weight": torch.zeros(1)})
