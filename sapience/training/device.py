"""Where and in which numbers a stage trains."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sapience.recipe.compute import ComputeSection, PlacementSection
from sapience.recipe.errors import UserError

if TYPE_CHECKING:
    from sapience.model.linear import Precision
    from sapience.model.transformer import Transformer

_FP8_CAPABILITY = (9, 0)
"""The first GPUs with FP8 tensor cores that take V3's scales (Hopper)."""


def choose_device(wanted: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UserError for `cuda` where there is none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "the recipe asks for device cuda, but this machine's PyTorch sees no GPU: set device=auto or cpu"
        )
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def chosen_precision(section: PlacementSection, device: torch.device) -> Precision:
    """`auto` is bf16 on a GPU."""
    if section.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return section.precision


def placed(model: Transformer, section: PlacementSection, rows: Collection[int] | None = None) -> Transformer:
    """The model on its device, computing as the section says; layers are compiled for micro-batches of so many `rows`, by
    default for all. Raises UserError for what the device cannot do."""
    device = choose_device(section.device)
    precision = chosen_precision(section, device)
    if precision == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        raise UserError(
            f"the recipe asks for precision fp8, but {torch.cuda.get_device_name(device)} has no tensor cores for it: "
            "set precision=bf16"
        )
    model = model.to(device).compute_in(precision)
    if isinstance(section, ComputeSection):
        model.recompute(section.recompute)
        if section.compiled:
            model.compile_layers(rows)
    return model


class Readout:
    """Tensors on their way to the host: reading them waits for what was launched before them, not for what came after."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host, in their order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
