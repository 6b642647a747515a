"""How the work is spread over processes. One process today; the cluster's dimensions join this section."""

from pydantic import Field

from sapience.recipe.section import Section


class ParallelSection(Section):
    """Threads of one process."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of the arithmetic; 0 chooses by timing a few steps, and keeps the choice for the whole run."""
