"""AdamW whose moments may be narrower than the weights, as V3 keeps them (report, section 3.3.2)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sapience.model.linear import Copy
from sapience.ops.adamw import Update, adamw_


class AdamW(torch.optim.Optimizer):
    """Decoupled weight decay (Loshchilov and Hutter 2019), moments in bfloat16. One kernel a tensor on a GPU.

    `factor` decides on the tensors' device: the gradients are multiplied by it, and where it is not finite nothing moves.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        betas: tuple[float, float],
        epsilon: float,
        copies: Iterable[tuple[Tensor, Copy]] = (),
    ) -> None:
        """`copies` are written by the kernel that moves the weight, where there is one."""
        super().__init__(params, {"lr": 0.0, "betas": betas, "epsilon": epsilon, "weight_decay": 0.0})
        self.copies = {id(weight): copy for weight, copy in copies}
        self.factor: Tensor | None = None
        """A scalar in float32; None for one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moving:
            return
        first = moving[0][0]
        factor = self.factor if self.factor is not None else first.new_ones((), dtype=torch.float32)
        # One counter for all, so that one kernel moves it; a loaded state brings one for each.
        count = self.state[first].get("step", first.new_zeros((), dtype=torch.float32))
        count.add_(factor.isfinite())
        for parameter, _ in moving:
            state = self.state[parameter]
            if not state:
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["step"] = count
        for parameter, group in moving:
            state = self.state[parameter]
            beta1, beta2 = group["betas"]
            update = Update(group["lr"], beta1, beta2, group["epsilon"], group["weight_decay"])
            assert parameter.grad is not None
            copy = self.copies.get(id(parameter))
            moments = state["exp_avg"], state["exp_avg_sq"]
            if copy is None:
                adamw_(parameter, parameter.grad, *moments, factor, count, update)
            elif adamw_(parameter, parameter.grad, *moments, factor, count, update, copy.current, copy.planes):
                copy.seen = parameter._version
