"""Layers are compiled for the shapes that come again and again, and for all of these."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from tiny_models import random_batch, tiny_config, tiny_model
from torch._dynamo.utils import counters

from sapience.model.transformer import Transformer
from sapience.pretraining.shared_training import share_training
from sapience.recipe.parallel import LayoutSection
from sapience.recipe.pretrain import PretrainSection
from sapience.training.objective import NextTokens

CONFIG = tiny_config(num_hidden_layers=2, num_nextn_predict_layers=0)
OBJECTIVE = NextTokens(0.0, 1e-2)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Transformer, int, int], int]]:
    """How many graphs a pass of so many rows and tokens makes; without the compiler's last part, which takes long."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()

    def made(model: Transformer, rows: int, length: int) -> int:
        before = counters["stats"]["unique_graphs"]
        loss, _ = OBJECTIVE(model, random_batch(CONFIG, rows, length, padding=False))
        loss.backward()
        return int(counters["stats"]["unique_graphs"] - before)

    yield made
    torch._dynamo.reset()


def test_what_a_growing_batch_leaves_over_is_not_compiled(graphs: Callable[[Transformer, int, int], int]) -> None:
    section = PretrainSection(compiled=True, device="cpu", precision="fp32")
    rows = list(range(1, 21))
    shared = share_training(tiny_model(CONFIG), OBJECTIVE, section, rows, 8, LayoutSection(), None)
    # the last step has micro-batches of 8, 8 and 4 rows
    made = {each: graphs(shared.model, each, 24) for each in range(1, 9)}
    assert {each for each, count in made.items() if count} == {4, 8}
    assert not any(graphs(shared.model, each, 24) for each in range(1, 9))


def test_more_shapes_than_the_compiler_takes_by_itself(graphs: Callable[[Transformer, int, int], int]) -> None:
    """Prediction modules, phases and packed rows add up to more than eight shapes of the same code."""
    model = tiny_model(CONFIG)
    model.compile_layers([2])
    assert all(graphs(model, 2, length) for length in range(16, 28))
