"""A tier is chosen because it holds, never because nothing better came to mind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from available_tiers import TIERS, sandbox_of

from sapience.recipe.errors import UserError
from sapience.rewards import sandbox as choosing
from sapience.rewards.contained_process import STARTED, Contained, watch
from sapience.rewards.control_group import ControlGroups
from sapience.rewards.interpreter import own_interpreter
from sapience.rewards.limits import Limits
from sapience.rewards.self_test import weaknesses


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_says_what_it_is(tier: Any) -> None:
    sandbox = sandbox_of(tier)
    assert sandbox.tier == tier and sandbox.weaker == (tier == "landlock")
    assert ("weaker" in sandbox.description) == sandbox.weaker


class Open:
    """Runs programs with no isolation at all."""

    def run(self, program: str, payload: Any, limits: Limits) -> Contained:
        setting = f"import os\nos.dup2(1, 3)\nos.write(3, {STARTED!r})\npayload = {payload!r}\n__name__ = 'contained'\n"
        setting += f"payload['processes'] = 2\nexec({program!r})"
        return watch([sys.executable, "-I", "-S", "-c", setting], job=b"", limits=limits)


def test_the_self_test_sees_what_is_open() -> None:
    found = " ".join(weaknesses(Open()))
    for word in (
        "port",
        "abstract socket",
        "read a file",
        "wrote a file",
        "memory",
        "more processes",
        "killed a process",
    ):
        assert word in found


def refuse(_: Any) -> list[str]:
    return ["a program read a file of this machine"]


def test_a_tier_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "weaknesses", refuse)
    for wanted in ("auto", "bubblewrap", "landlock"):
        with pytest.raises(UserError, match=r"read a file of this machine.*pip install"):
            choosing.choose_sandbox(wanted)  # type: ignore[arg-type]


def test_the_weak_tier_says_why_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_of("landlock")
    monkeypatch.setattr(choosing, "find_bwrap", list)
    chosen = choosing.choose_sandbox()
    assert chosen.tier == "landlock" and "bwrap is not installed" in chosen.description
    with pytest.raises(UserError, match="not installed"):
        choosing.choose_sandbox("bubblewrap")


def test_a_sandbox_that_cannot_start_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in ("#!/bin/sh\necho no namespaces >&2\nexit 1\n", "not a program"):
        broken = tmp_path / "bwrap"
        broken.write_text(content)
        broken.chmod(0o755)
        monkeypatch.setattr(choosing, "find_bwrap", lambda broken=broken: [broken])
        with pytest.raises(UserError, match="does not start"):
            choosing.choose_sandbox("bubblewrap")


def test_another_bwrap_is_tried_where_the_first_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sandbox_of("bubblewrap")
    working = choosing.find_bwrap()
    monkeypatch.setattr(choosing, "find_bwrap", lambda: [tmp_path / "missing", *working])
    assert choosing.choose_sandbox("bubblewrap").tier == "bubblewrap"


def test_the_interpreter_inside_is_ours_and_sees_no_packages() -> None:
    interpreter = own_interpreter()
    version = subprocess.run(
        [interpreter.executable, "-I", "-S", "-c", "import sys; print(sys.version)"], capture_output=True, text=True
    )
    assert version.stdout.strip() == sys.version
    read, listed = interpreter.taken_apart()
    assert not any(path.name in ("site-packages", "dist-packages") for path in [*read, *listed])
    assert not any(Path(__file__).is_relative_to(path) for path in read)


def test_groups_of_killed_judges_are_taken_away(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = 1_000_000_000
    for name, born in (
        (f"sapience-{ended.pid}-1", old),
        (f"sapience-{ended.pid}-2", None),
        (f"sapience-{os.getpid()}-1", old),
        ("other-1-1", old),
    ):
        (tmp_path / name).mkdir()
        if born:
            os.utime(tmp_path / name, (born, born))
    (tmp_path / f"sapience-{ended.pid}-3").mkdir()
    (tmp_path / f"sapience-{ended.pid}-3" / "busy").touch()
    os.utime(tmp_path / f"sapience-{ended.pid}-3", (old, old))
    ControlGroups(tmp_path, tmp_path, 1).sweep()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"sapience-{ended.pid}-2", f"sapience-{ended.pid}-3", f"sapience-{os.getpid()}-1", "other-1-1"}
