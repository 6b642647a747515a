"""What of a model a pipeline's rank keeps.

The first stage has the embedding too, the last one the final norm, the head and the prediction modules. As these need the
embedding again, V3 keeps both ends of its pipeline on one rank (report, section 3.2.3); where they are on two, both have the
embedding, and their gradients are added up like those of any other part that several ranks hold.
"""

from collections.abc import Sequence

from torch import nn

from sapience.model.transformer import Transformer


class Absent(nn.Module):
    """In the place of a part that another rank has."""


def keep(model: Transformer, stages: Sequence[int], division: Sequence[range]) -> Transformer:
    """Take out of the model, in place, what these stages do not have."""
    layers = {layer for stage in stages for layer in division[stage]}
    first, last = 0 in stages, len(division) - 1 in stages
    for layer in range(len(model.layers)):
        if layer not in layers:
            model.layers[layer] = Absent()
    again = bool(model.predictions) or model.config.tie_word_embeddings
    if not (first or (last and again)):
        model.embedding = Absent()  # type: ignore[assignment]
    if not last:
        model.norm = Absent()  # type: ignore[assignment]
        model.head = Absent()  # type: ignore[assignment]
        model.predictions = nn.ModuleList(Absent() for _ in model.predictions)
    return model
