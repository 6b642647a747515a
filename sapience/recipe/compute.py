"""On what, and in which numbers, a stage trains."""

from typing import Literal

from pydantic import Field

from sapience.recipe.section import Section

RecomputedPart = Literal["norms", "attention_up"]
"""`norms`: the results of the norms in front of attention and feed-forward. `attention_up`: MLA's queries, keys and values."""


class PlacementSection(Section):
    """Device and precision of a training; neither changes what is learned beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """What products are computed in; weights and gradients are float32 always. `auto` is bf16 on a GPU and fp32 on a CPU,
    where bf16 is slower. `fp8` is V3's scheme (section 3.3): faster than bf16 on matrices of thousands of columns, slower on
    small ones; on a CPU it is emulated, slowly."""


class ComputeSection(PlacementSection):
    """Compilation as well: for a training whose batches have one shape, since layers are compiled for a shape."""

    recompute: list[RecomputedPart] = Field(default_factory=list)
    """Parts of a layer that are computed again in the backward pass instead of being kept: less memory, a little more time.
    `attention_up` are MLA's queries, keys and values. V3 names both, and SwiGLU (section 3.2.3), whose results are never kept
    here; compiled layers recompute norms by themselves."""
    compiled: bool = False
    """Compile the layers (torch.compile): a third faster on a GPU, after half a minute at the beginning. That is done for the
    micro-batches of a full step; smaller ones, which a growing batch leaves over, are computed without."""
