"""Threads and waiting are chosen by time, kept for the run, and safe where nothing can be timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sapience.planning import threads as threads_module
from sapience.planning.threads import (
    CHOICE_FILE,
    SHORT_SPIN,
    SLEEP,
    Probe,
    ThreadChoice,
    choose,
    load_or_choose,
)


def probe_of(times: dict[int, tuple[float | None, float | None]]) -> Probe:
    """Threads → (milliseconds with a short spin, sleeping)."""

    def probe(count: int, waiting: Mapping[str, str]) -> float | None:
        short, sleeping = times[count]
        return short if waiting == SHORT_SPIN else sleeping

    return probe


@pytest.mark.parametrize(
    ("times", "threads", "waiting"),
    [
        ({2: (69.0, 78.0), 1: (110.0, 110.0)}, 2, SHORT_SPIN),  # idle cores
        (
            {2: (205.0, 127.0), 1: (114.0, 114.0)},
            2,
            SLEEP,
        ),  # a busy neighbour: one thread is not clearly faster
        ({2: (77.0, 78.0), 1: (110.0, 110.0)}, 2, SLEEP),  # a tie goes to what is safe
        ({2: (900.0, 300.0), 1: (100.0, 100.0)}, 1, SLEEP),
        ({2: (None, None), 1: (None, None)}, 2, SLEEP),  # probes fail
        ({2: (None, 80.0), 1: (None, None)}, 2, SLEEP),
        ({2: (70.0, None), 1: (None, None)}, 2, SHORT_SPIN),
    ],
)
def test_choice(times: dict[int, tuple[float | None, float | None]], threads: int, waiting: dict[str, str]) -> None:
    choice = choose(2, probe=probe_of(times))
    assert choice.threads == threads
    assert choice.environment == {"OMP_NUM_THREADS": str(threads), **waiting}


def test_many_cores_are_halved_as_long_as_that_is_clearly_faster() -> None:
    times = {32: (90.0, 95.0), 16: (50.0, 50.0), 8: (30.0, 30.0), 4: (29.0, 29.0)}
    assert choose(64, probe=probe_of(times)).threads == 8


def test_one_lucky_timing_does_not_change_the_threads() -> None:
    answers = iter([100.0, 120.0, 50.0, 60.0, 58.0])  # short, sleeping, one thread; then both again
    assert choose(2, probe=lambda count, waiting: next(answers)).threads == 2


def test_a_wish_of_the_recipe_is_followed() -> None:
    assert choose(2, threads=1, probe=probe_of({})).threads == 1
    assert choose(2, threads=4, probe=probe_of({4: (50.0, 80.0)})).threads == 4


def test_a_run_keeps_its_choice(tmp_path: Path) -> None:
    first = load_or_choose(tmp_path / "run", 2, probe=probe_of({2: (69.0, 78.0), 1: (110.0, 110.0)}))
    again = load_or_choose(tmp_path / "run", 8, probe=probe_of({}))
    assert again == first and first.timings["2 threads, GOMP_SPINCOUNT=3000"] == 69.0
    wished = load_or_choose(tmp_path / "run", 2, threads=1, probe=probe_of({}))
    assert wished.threads == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"threads": 0, "environment": {}, "timings": {}}', '{"a": 1}'])
def test_a_damaged_file_is_chosen_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / CHOICE_FILE).write_text(content)
    choice = load_or_choose(tmp_path, 1, probe=probe_of({}))
    assert choice.threads == 1
    assert json.loads((tmp_path / CHOICE_FILE).read_text())["threads"] == 1


def test_probes_that_cannot_run_are_answered_by_the_safe_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert choose(3) == ThreadChoice(3, {"OMP_NUM_THREADS": "3", **SLEEP}, {})


def test_a_real_probe_gives_a_time() -> None:
    taken = threads_module._timed_in_a_process(1, SLEEP)
    assert taken is not None and 1 < taken < 20_000


def test_choosing_and_applying_happen_without_torch() -> None:
    program = (
        "import sys, os\n"
        "from sapience.planning.threads import ThreadChoice, choose\n"
        "import sapience.planning.machine, sapience.planning.needs, sapience.planning.doctor\n"
        "choose(1).apply()\n"
        "assert 'torch' not in sys.modules and os.environ['OMP_NUM_THREADS'] == '1'\n"
        "sys.modules['torch'] = None\n"
        "try: ThreadChoice(1, {}, {}).apply()\n"
        "except RuntimeError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
