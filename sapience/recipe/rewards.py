"""How answers are judged by rules: where programs run and what they may use."""

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

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
    answer_formats: tuple[Literal["boxed", "hash", "answer_line"], ...] = ("boxed",)
    r"""Where the final answer of a mathematics problem may stand, in order of preference: `boxed` is the last `\boxed{...}`,
    `hash` what follows the last `####` (as in GSM8K), `answer_line` the last line that begins `Answer:` or `答案：`.
    A text with none of them is an error of form."""
    math_workers: PositiveInt = 2
    """Processes that compare answers by algebra at once. Each takes about 100 MiB and at most one core."""
    math_seconds: PositiveFloat = 5.0
    """Processor time of one comparison, in seconds; an answer that needs more is wrong. A busy machine does not shorten it."""
    short: PositiveInt = 2000
    """Characters of an answer up to which the reward source `length` is one."""
    long: PositiveInt = 8000
    """Characters of an answer at which it is zero."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.short >= self.long:
            raise ValueError(f"rewards.short {self.short} has to be below rewards.long {self.long}")
        return self
