"""Random weights: by the seed alone, of the widths that the recipe names."""

import pytest
import torch
from tiny_models import tiny_config

from sapience.model.transformer import Transformer


def test_the_embedding_may_have_a_range_of_its_own_and_changes_no_other_weight() -> None:
    config = tiny_config(initializer_range=0.01)
    plain = Transformer(config).initialize(3)
    wide = Transformer(config.model_copy(update={"embedding_range": 0.8})).initialize(3)
    assert float(plain.embedding.weight.std()) == pytest.approx(0.01, rel=0.1)
    assert torch.allclose(wide.embedding.weight, 80 * plain.embedding.weight, rtol=1e-5)
    for (name, one), other in zip(plain.named_parameters(), wide.parameters(), strict=True):
        assert name == "embedding.weight" or torch.equal(one, other), name
