"""What YaRN a model gets when its context is extended, for the first time and once more."""

import torch
from tiny_models import tiny_config, tiny_model

from sapience.pretraining.extend import stretched, trained_length
from sapience.recipe.extend import ExtendSection

V2_LITE = {"factor": 40.0, "original_max_position_embeddings": 32, "mscale": 0.707, "mscale_all_dim": 0.707}


def test_a_first_extension_takes_the_recipes_yarn() -> None:
    model = tiny_model(tiny_config(max_position_embeddings=32))
    section = ExtendSection(scaling_factor=None, beta_fast=6, mscale=2)
    longer = stretched(model, section, 8, trained_length(model.config))
    scaling = longer.config.rope_scaling
    assert scaling is not None
    assert (scaling.factor, scaling.original_max_position_embeddings, scaling.beta_fast) == (8, 32, 6)
    assert scaling.mscale == scaling.mscale_all_dim == 2 and longer.config.max_position_embeddings == 256
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), longer.parameters(), strict=True))


def test_a_model_that_was_stretched_before_keeps_its_yarn_which_may_only_grow() -> None:
    """DeepSeek's released models have positions stretched by 40 already; their base is what they were trained at."""
    model = tiny_model(tiny_config(max_position_embeddings=1280, rope_scaling=V2_LITE))
    assert trained_length(model.config) == 32
    same = stretched(model, ExtendSection(), 32, trained_length(model.config))
    assert same.config == model.config
    tokens = torch.randint(3, 61, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(same.hidden(tokens), model.hidden(tokens))
    further = stretched(model, ExtendSection(scaling_factor=80), 64, 32).config
    assert further.rope_scaling is not None and further.max_position_embeddings == 2560
    assert further.rope_scaling.model_dump() == model.config.rope_scaling.model_dump() | {"factor": 80.0}  # type: ignore[union-attr]
