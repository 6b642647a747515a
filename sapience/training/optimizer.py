"""The optimizer of a recipe: AdamW, or Muon for hidden matrices beside AdamW for the rest; one object to step and save."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sapience.model.transformer import copies_of
from sapience.ops.fp8_products import squares_of
from sapience.recipe.optimization import OptimizerSection
from sapience.training.adamw import AdamW
from sapience.training.muon import Muon


class Shared(Protocol):
    """What the ranks that hold parts of a model agree on."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What this rank moves, by name: whole parameters or some rows of them."""

    def counts(self, name: str) -> bool:
        """Whether this rank is the one that counts the parameter."""

    def total(self, square: Tensor) -> Tensor:
        """The sum of every rank's."""

    def moved(self) -> None:
        """The weights that had gradients here have moved."""


class OptimizerSet:
    """Steps and saves one or two optimizers that share a learning rate."""

    def __init__(self, model: nn.Module, section: OptimizerSection, shared: Shared | None = None) -> None:
        """`shared` where this is a rank's part of a model: the gradient's norm is that of the whole."""
        self.section, self.shared = section, shared
        named = dict(model.named_parameters()) if shared is None else shared.parameters()
        self.names = {id(parameter): name for name, parameter in named.items()}
        self.parameters = list(named.values())
        self._copies = copies_of(model)
        matrices = [p for p in self.parameters if p.ndim >= 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        hidden = [p for p in matrices if section.name == "muon" and _is_hidden(self.names[id(p)])]
        chosen = {id(p) for p in hidden}
        groups = [
            {
                "params": [p for p in matrices if id(p) not in chosen and self._rate(p) == rate],
                "weight_decay": section.weight_decay,
                "rate": rate,
            }
            for rate in sorted({self._rate(p) for p in matrices if id(p) not in chosen})
        ]
        groups.append({"params": vectors, "weight_decay": 0.0, "rate": 1.0})
        self.optimizers: list[torch.optim.Optimizer] = [_adamw(groups, section, model)]
        if hidden:
            self.optimizers.append(
                Muon(
                    hidden,
                    0.0,
                    section.muon_momentum,
                    section.muon_iterations,
                    section.muon_update,
                    section.weight_decay,
                )
            )

    def step(self, learning_rate: float) -> Tensor:
        """Clip the gradient, move the weights; returns the gradient's norm before clipping, a scalar on its device.

        Where the norm is not finite nothing moves: the caller counts the step as skipped. Gradients are cleared. With bfloat16
        moments nothing waits for the norm.
        """
        ours = [optimizer for optimizer in self.optimizers if isinstance(optimizer, AdamW | Muon)]
        if len(ours) == len(self.optimizers):
            norm = self._norm()
            factor = torch.where(norm.isfinite(), (self.section.clip / (norm + 1e-6)).clamp(max=1.0), torch.nan)
            for deciding in ours:
                deciding.factor = factor
            moves = True
        else:
            norm = self._norm()
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.section.clip, norm, foreach=True)
            moves = bool(norm.isfinite())
        if moves:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * group.get("rate", 1.0)
                optimizer.step()
                if isinstance(optimizer, torch.optim.AdamW):  # its fused kernel moves weights without saying so
                    moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                    torch.autograd.graph.increment_version(moved)
        for parameter in self.parameters:
            parameter.grad = None
        if moves and self.shared is not None:
            self.shared.moved()
        return norm

    def _norm(self) -> Tensor:
        """Of the whole gradient; of experts in FP8 from the sums of squares that their product has left."""
        counted = [p for p in self.parameters if self.shared is None or self.shared.counts(self.names[id(p)])]
        experts = [weight for weight, copy in self._copies if weight.ndim == 3 and copy.precision == "fp8"]
        squares = {id(p): sums for p in experts if p.grad is not None and (sums := squares_of(p.grad)) is not None}
        others = [p.grad for p in counted if p.grad is not None and id(p) not in squares]
        none = self.parameters[0].new_zeros(())
        norm = torch.nn.utils.get_total_norm(others, foreach=True) if others else none
        if squares:
            own = [sums.sum() for p in counted if (sums := squares.get(id(p))) is not None]
            norm = torch.stack([norm.square(), *own]).sum().sqrt()
        return norm if self.shared is None else self.shared.total(norm.square().double()).sqrt().to(norm.dtype)

    def _rate(self, parameter: Tensor) -> float:
        """Factor on the learning rate."""
        name = self.names[id(parameter)]
        if name.endswith("embedding.weight"):
            return self.section.embedding_rate
        return self.section.head_rate if name.endswith("head.weight") else 1.0

    def tensors(self) -> dict[str, Tensor]:
        """The state by `moment/parameter`, for a checkpoint."""
        return {
            f"{moment}/{self.names[id(parameter)]}": value.clone() if moment == "step" else value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for moment, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave. Raises KeyError for a parameter the model does not have."""
        owners = {
            self.names[id(parameter)]: (optimizer, parameter)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for key, value in tensors.items():
            moment, name = key.split("/", 1)
            optimizer, parameter = owners[name]
            optimizer.state[parameter][moment] = value.to(parameter.device).clone()


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection, model: nn.Module) -> torch.optim.Optimizer:
    betas = section.beta1, section.beta2
    if section.moments == "bf16":
        return AdamW(groups, betas, section.epsilon, copies_of(model))
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=section.epsilon, fused=True)


def _is_hidden(name: str) -> bool:
    """Muon is for matrices between hidden states: not for embedding, head and gate."""
    return not any(part in name for part in ("embedding.weight", "head.weight", "gate.weight_ED"))
