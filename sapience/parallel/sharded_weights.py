"""Weights that no rank keeps whole, by FSDP2 (`torch.distributed.fsdp.fully_shard`; ZeRO-3 of Rajbhandari et al. 2020).

The matrices of a layer are cut along their first axis. All ranks of a group gather them in front of the layer's forward and
of its backward pass, in the type of the hidden states, and free them behind it; gradients are added up, and each rank is left
with those of its rows. What is small, or read outside of layers (norms, gates, embedding, head, the prediction modules'
joins), stays whole. Optimizer and checkpoints know of none of this: to them a rank's rows are plain tensors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sapience.model.block import ExpertBlock
from sapience.model.linear import Copy
from sapience.model.transformer import Transformer, copies_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class ShardedWeights:
    """A rank's rows of a model's matrices."""

    weights: "Mapping[str, DTensor]"
    """The parameters, by name."""
    groups: Mapping[str, dist.ProcessGroup]
    """The ranks that have the rows of each between them."""

    @cached_property
    def slices(self) -> dict[str, nn.Parameter]:
        """This rank's rows of each, in one memory with those that are gathered; there may be none."""
        with torch.no_grad():
            return {name: nn.Parameter(weight.to_local()) for name, weight in self.weights.items()}

    def rows(self, name: str) -> tuple[int, int]:
        """The first of a parameter's rows that are this rank's, and the one behind the last."""
        rows, group = self.weights[name].shape[0], self.groups[name]
        each = -(-rows // dist.get_world_size(group))
        first = min(rows, each * dist.get_rank(group))
        return first, min(rows, first + each)

    def take_gradients(self) -> None:
        """Give every slice the gradient that a step has left with its parameter."""
        for name, weight in self.weights.items():
            gradient = cast("DTensor | None", weight.grad)
            empty = gradient is None or not self.slices[name].numel()
            self.slices[name].grad = None if gradient is None or empty else gradient.to_local()
            weight.grad = None


def _give_rows(cut: ShardedWeights, _: nn.Module, state: dict[str, Any], *__: Any) -> None:
    """A state dictionary has the rank's rows."""
    for name in cut.weights:
        state[name] = state[name].to_local()


def _take_rows(cut: ShardedWeights, _: nn.Module, state: dict[str, Any], *__: Any) -> None:
    """One that is loaded has them too."""
    from torch.distributed.tensor import DTensor

    for name, weight in cut.weights.items():
        if name in state:
            rows, mesh, form = state[name].to(weight.device), weight.device_mesh, weight.placements
            shape, stride = weight.shape, weight.stride()
            state[name] = DTensor.from_local(rows, mesh, form, run_check=False, shape=shape, stride=stride)


def shard_weights(
    model: Transformer,
    group: dist.ProcessGroup,
    same_experts: dist.ProcessGroup | None,
    device: torch.device,
    narrow: bool,
) -> ShardedWeights:
    """Cut the matrices of all layers, in place. All ranks of the group call it, each with the same model.

    `same_experts`: where experts are spread, those that have the same; a rank that is the only one keeps its experts.
    `device`: where the model will be; rows go there, one layer after another. `narrow`: the model will compute in bfloat16.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    kinds = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if narrow else {}
    policy = MixedPrecisionPolicy(**kinds, cast_forward_inputs=False)
    mesh = DeviceMesh.from_group(group, device.type)
    experts_mesh = None if same_experts is None else DeviceMesh.from_group(same_experts, device.type)
    groups: dict[int, dist.ProcessGroup] = {}

    def cut(module: nn.Module, among: "DeviceMesh", matrices: Iterable[tuple[Tensor, Copy]]) -> None:
        taken = dict(matrices)
        others = {parameter for parameter in module.parameters() if parameter not in taken}
        for copy in taken.values():
            copy.needless = True
        fully_shard(module, mesh=among, reshard_after_forward=True, mp_policy=policy, ignored_params=others)
        made = cast("FSDPModule", module)
        # A step's losses are divided by what all ranks have: their gradients are added up, not averaged.
        made.set_gradient_divide_factor(1.0)
        made.set_force_sum_reduction_for_comms(True)
        groups.update({id(p): among.get_group() for p in module.parameters() if p not in others})

    for block in model.blocks():
        matrices = copies_of(block)
        if isinstance(block, ExpertBlock) and experts_mesh is not None:
            experts = block.experts.copies()
            matrices = [pair for pair in matrices if all(pair[0] is not weight for weight, _ in experts)]
            if experts_mesh.size() > 1:
                cut(block.experts, experts_mesh, experts)
                register_fsdp_forward_method(block.experts, "of_tokens")
        cut(block, mesh, matrices)
    # The whole model has nothing to gather itself; it is the root, which lets layers be gathered ahead of their turn.
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(model.parameters()))
    weights = {name: cast("DTensor", p) for name, p in model.named_parameters() if id(p) in groups}
    made = ShardedWeights(weights, {name: groups[id(weight)] for name, weight in weights.items()})
    model.register_state_dict_post_hook(partial(_give_rows, made))
    model.register_load_state_dict_pre_hook(partial(_take_rows, made))
    return made
