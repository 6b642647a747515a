"""Which device a stage trains on."""

import torch

from sapience.recipe.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UserError for `cuda` where there is none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "the recipe asks for device cuda, but this machine's PyTorch sees no GPU: set device=auto or cpu"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")
