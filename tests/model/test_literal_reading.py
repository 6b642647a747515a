"""The network and its prediction modules against a literal reading of the report in float64."""

import pytest
import torch
from literal_v3 import hidden_states, loss_sums
from tiny_models import tiny_config, tiny_model

from sapience.model.batch import from_rows
from sapience.training.objective import NextTokens

TOKENS = [5, 17, 3, 60, 22, 22, 9, 41]
CASES = [(0, 12), (1, 12), (2, 12), (2, None)]


@pytest.mark.parametrize(("depths", "q_rank"), CASES)
def test_hidden_states_of_all_depths(depths: int, q_rank: int | None) -> None:
    model = tiny_model(tiny_config(num_nextn_predict_layers=depths, q_lora_rank=q_rank), dtype=torch.float64)
    expected = hidden_states(model, TOKENS)
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        hidden = model.hidden(tokens)
        states = [hidden, *model.mtp_hidden(hidden, tokens)]
    assert len(states) == depths + 1
    for depth, (ours, literal) in enumerate(zip(states, expected, strict=True)):
        assert ours.shape[1] == len(TOKENS) - depth
        assert torch.allclose(ours[0], torch.stack(literal), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depths", "q_rank"), CASES)
def test_the_objective_is_equations_23_to_25(depths: int, q_rank: int | None) -> None:
    model = tiny_model(tiny_config(num_nextn_predict_layers=depths, q_lora_rank=q_rank), dtype=torch.float64)
    main, *further = loss_sums(model, TOKENS)
    batch = from_rows(torch.tensor([TOKENS]), torch.zeros(1, len(TOKENS), dtype=torch.int32))
    with torch.no_grad():
        total, sums = NextTokens(prediction_weight=0.3, alpha=0.0)(model, batch)
    mean = sum(further) / depths if depths else 0.0
    assert float(sums.values["loss"]) == pytest.approx(main, rel=1e-6)
    assert float(sums.values["mtp_loss"]) == pytest.approx(mean, rel=1e-6)
    assert float(total) == pytest.approx(main + 0.3 * mean, rel=1e-6)


def test_embedding_and_head_are_shared_with_the_prediction_modules() -> None:
    """Their gradient holds the prediction loss's part; no second copy exists."""
    model = tiny_model(dtype=torch.float64)
    own = [name for name, _ in model.predictions.named_parameters()]
    assert not [name for name in own if "embedding.weight" in name or "head" in name]
    batch = from_rows(torch.tensor([TOKENS]), torch.zeros(1, len(TOKENS), dtype=torch.int32))
    gradients = []
    for weight in (0.0, 1.0):
        model.zero_grad()
        NextTokens(prediction_weight=weight, alpha=0.0)(model, batch)[0].backward()
        assert model.head.weight.grad is not None and model.embedding.weight.grad is not None
        gradients.append((model.head.weight.grad.clone(), model.embedding.weight.grad.clone()))
    assert not torch.allclose(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_predictions_are_causal() -> None:
    """State i of depth k sees tokens up to i+k and no later one; the main model's up to i."""
    model = tiny_model(tiny_config(num_nextn_predict_layers=2), dtype=torch.float64)
    tokens = torch.tensor([TOKENS])
    for place in range(1, len(TOKENS)):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 61
        with torch.no_grad():
            states = [[h, *model.mtp_hidden(h, t)] for t in (tokens, other) for h in (model.hidden(t),)]
        for depth, (before, after) in enumerate(zip(*states, strict=True)):
            first = max(0, place - depth)
            assert torch.allclose(before[:, :first], after[:, :first], atol=1e-10)
            assert not torch.allclose(before[:, first:], after[:, first:])
