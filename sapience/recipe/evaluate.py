"""The recipe's `evaluate` section: how much is measured on each model.

The amounts decide the stage's cost: a forward pass over all held-out text, needles and problems of one model.
What is measured is the same for every model of a run, so that the figures compare.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sapience.recipe.section import Section


class EvaluateSection(Section):
    """What the stage `evaluate` measures on each model."""

    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], str] = Field(default_factory=dict)
    """Models to measure, name -> RUN, RUN@stage or a Hugging Face folder. Empty: `base` (pretrain) and
    `extended` (extend) of this run, as far as they are there."""

    bits_per_byte_kilobytes: int = Field(default=64, ge=1)
    """Held-out text per domain in units of 1024 bytes; lzma compresses the same bytes. 64 KB keeps the noise
    of a domain near 0.03 bits per byte."""

    window: int | None = Field(default=None, ge=8)
    """Context in tokens for bits per byte, MTP and few-shot prompts. None: the pre-training length, for the
    extended model too, so that a difference between two models is the models' and not the context's."""

    mtp_kilobytes: int = Field(default=8, ge=0)
    """Held-out text per domain, in units of 1024 bytes, on which MTP drafts are checked; 0 leaves them out.
    """

    needle_samples: dict[int, int] = Field(default_factory=lambda: {1: 8, 8: 4, 32: 1})
    """Needle map: length as a multiple of `window` -> samples per depth. Long lengths cost most: 32 times the
    window costs 32 times as much per sample."""

    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle is hidden, as a share of the filler text in front of it."""

    families: tuple[str, ...] = ()
    """Problem families to try; empty: all that come with sapience."""

    problems_per_family: int = Field(default=50, ge=0)
    """Unseen problems of each family; 50 give a 95 % interval of about 14 points to either side, 400 of
    about 5."""

    shots: int = Field(default=3, ge=0)
    """Solved training problems in front of each question. Fewer are shown where they do not fit into
    `window`."""

    answer_tokens: int = Field(default=24, ge=1)
    """Longest answer in tokens; generation stops at the end of the line anyway."""

    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass: bounds memory; the results do not depend on it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(not 0.0 <= depth <= 1.0 for depth in self.needle_depths):
            raise ValueError(
                f"needle_depths {list(self.needle_depths)} must lie between 0 (start of the text) and 1 (end)"
            )
        if any(multiple < 1 or samples < 0 for multiple, samples in self.needle_samples.items()):
            raise ValueError(
                f"needle_samples {self.needle_samples} must map a multiple of the window (1 or more) to a "
                "number of samples per depth (0 or more)"
            )
        return self
