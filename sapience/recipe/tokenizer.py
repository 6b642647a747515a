"""The recipe's `tokenizer` section: how text becomes numbers (DeepSeek-V3 report, section 4.1)."""

from typing import Literal

from pydantic import Field, PositiveFloat

from sapience.recipe.section import Section


class TokenizerSection(Section):
    """A byte-level BPE trained on the corpus, or one of the user's own; and the encoding of the training documents."""

    path: str | None = None
    """A tokenizer.json, or a folder with one, to use instead; the fields about training do not matter then."""
    vocab_size: int = Field(default=1024, ge=288)
    """Entries in all: 16 special tokens, 256 bytes, the rest merges. V3: 128 000."""
    digits: Literal[1, 3] = 1
    """Longest run of digits in one token. V3: 3; single digits make arithmetic learnable for tiny models."""
    sample_mb: PositiveFloat = 8.0
    """Training sample, in units of 10^6 bytes, drawn from the domains by their weights."""
    split_combined: float = Field(default=0.1, ge=0, le=1)
    """Share of the tokens that join punctuation with line breaks that are split in training documents, against the
    bias of prompts that lack the last line break. V3 splits "a certain proportion"; the value is not published."""
    fill_in_middle: float = Field(default=0.1, ge=0, le=1)
    """Share of the code documents that are turned into prefix, suffix, middle. V3: 0.1."""
