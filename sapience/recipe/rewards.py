"""How answers are judged by rules: where programs run and what they may use."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from sapience.recipe.section import Section


class RewardsSection(Section):
    """The judge of mathematics and code, the same in every stage."""

    sandbox: Literal["auto", "bubblewrap", "landlock"] = "auto"
    """Where model-written programs run; `auto` takes bubblewrap where the machine allows it, else Landlock, which is
    weaker and named so. Where neither isolates, judging code is refused."""
    workers: PositiveInt = 4
    """Programs that are judged at once. Putting up a sandbox is mostly waiting, so more than there are cores pays."""
    cpu_seconds: PositiveFloat = 2.0
    """Processor time of a program with all its tests; more is a timeout. A busy machine does not shorten it."""
    wall_seconds: PositiveFloat = 20.0
    """A program that sleeps longer is stopped; one that was kept from running is judged again, never called wrong."""
    memory_mb: PositiveInt = 256
    """Address space of a program, in MiB."""
