"""How the work is spread over processes and threads."""

from typing import Literal

from pydantic import Field

from sapience.recipe.section import Section

ScheduleName = Literal["1f1b", "interleaved", "zb1p", "dualpipe", "dualpipev"]


class LayoutSection(Section):
    """The dimensions of a cluster; processes that no dimension names are data-parallel. V3 had pipelines of 16 ranks driven by
    DualPipe, experts over 64 ranks and ZeRO-1, on 2048 GPUs (report, section 3.2)."""

    pipeline: int = Field(default=1, ge=1)
    """Ranks that have the model's layers between them."""
    schedule: ScheduleName = "1f1b"
    """What a pipeline's ranks do when: `sapience bench schedule NAME` draws it. `dualpipe` and `dualpipev` have the smallest
    bubble and take at least twice as many micro-batches as ranks; `1f1b` takes any number."""
    stage_layers: list[int] | None = None
    """Layers of each stage; by default divided so that the stage with most arithmetic has as little as can be."""
    expert: int = Field(default=1, ge=1)
    """Data-parallel ranks that have the experts of each layer between them, and send each other tokens."""
    dispatch: Literal["exact", "fp8"] = "exact"
    """How tokens travel to their experts, and the gradients of experts' outputs: in the model's own type, or half as large in
    FP8, as V3 sends them (report, section 3.3.3). The ways back are exact always."""
    context: int = Field(default=1, ge=1)
    """Data-parallel ranks that have the places of each row between them, for contexts that are too long for one."""
    shard_optimizer: bool = True
    """ZeRO-1: of data-parallel ranks one keeps the moments of a weight and moves it for all; otherwise all do the same."""
    shard_weights: bool = False
    """FSDP: no data-parallel rank keeps a layer's matrices, their gradients or moments whole; each has some rows of them, and
    gathers the others for the layer's forward and its backward pass. For models that do not fit otherwise. What is in no layer
    stays with `shard_optimizer`."""


class ParallelSection(LayoutSection):
    """How the work is spread over processes and threads."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of the arithmetic; 0 chooses by timing a few steps, and keeps the choice for the whole run."""
    extend: LayoutSection | None = None
    """Another layout for the phases of `extend`, whose steps have few and long rows; null takes the same."""

    @property
    def extending(self) -> LayoutSection:
        """The layout of `extend`."""
        return self if self.extend is None else self.extend
