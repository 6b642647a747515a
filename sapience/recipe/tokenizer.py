"""The tokenizer: trained on the corpus, or brought along."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sapience.recipe.section import Section


class TokenizerSection(Section):
    """Byte-level BPE with DeepSeek-V3's pre-tokenization (report, section 4.1)."""

    path: str | None = None
    """A tokenizer.json, or a folder that holds one, to use instead of training."""
    vocab_size: PositiveInt = 1024
    """Entries, special tokens included; V3: 128K."""
    digits: Literal["grouped", "single"] = "grouped"
    """Runs of up to three digits as V3 splits them, or every digit by itself, better for a small vocabulary."""
    sample_megabytes: float = Field(default=8.0, gt=0)
    """Text the merges are learned from, in MB, mixed by the corpus's weights."""
    split_combined: float = Field(default=0.1, ge=0, le=1)
    """Share of the combined punctuation-and-newline tokens that are split at random in training documents, against the
    bias of prompts that end without a newline; V3 does so at an unpublished share."""
    fill_in_the_middle: float = Field(default=0.1, ge=0, le=1)
    """Share of the code documents rearranged to prefix, suffix, middle; V3: 0.1."""

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.path is None and self.vocab_size < 300:
            raise ValueError(
                f"vocab_size {self.vocab_size} is too small: 256 bytes and the special tokens alone take 272; take 512 or more"
            )
        return self
