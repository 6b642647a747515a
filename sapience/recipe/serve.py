"""The recipe's `serve` section: how the run's models answer people. No stage depends on it, so that none is made anew."""

from pydantic import Field

from sapience.recipe.section import Section

DRAFT = 1
"""For a model of no run as well."""
MOST_DRAFTED = 8
"""The last of so many is hardly ever what is drawn."""


class ServeSection(Section):
    """Talking to the run's models (`sapience serve`, `chat`, `generate`): how many tokens are drafted ahead."""

    draft: int = Field(default=DRAFT, ge=0, le=MOST_DRAFTED)
    """Tokens that the prediction module (MTP) drafts ahead; 0: none. This is speculative decoding, `num_speculative_tokens`
    of vLLM: the model reads all drafts in one pass and draws what it would have drawn without them, only sooner. Where that
    does not pay, the engine notices and leaves it. V3 served with 1 and accepted 85 to 90 % (report, section 5.4.3)."""
