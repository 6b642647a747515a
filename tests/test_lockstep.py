"""Timing in turn: ratios, order, and an end to everything when one system fails."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKSTEP = [sys.executable, str(ROOT / "benchmarks" / "lockstep.py")]
ANSWERS = """
import json, os, sys
name, log, times = sys.argv[1], open(sys.argv[2], "a"), json.loads(sys.argv[3])
print("a library's chatter"); print(f"READY {name}", flush=True)
for line in sys.stdin:
    if line.strip() == "quit":
        print(json.dumps({"system": name, "params": 7}), flush=True)
        break
    log.write(name); log.flush()
    print(json.dumps({"round_ms": times.pop(0)}), flush=True)
"""
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
print("READY", flush=True)
time.sleep(600)
"""
"""Says that it is ready, and then neither answers nor ends when it is asked to."""


def system(code: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", code, *map(str, arguments)])


def lockstep(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*LOCKSTEP, *arguments], env=environment, capture_output=True, text=True, timeout=200)


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_and_the_order_rotates(tmp_path: Path) -> None:
    log = tmp_path / "order"
    times = {"A": [10, 20, 40], "B": [15, 60, 100], "C": [5, 10, 80]}
    done = lockstep("--rounds", "3", *(system(ANSWERS, name, log, json.dumps(ms)) for name, ms in times.items()))
    assert done.returncode == 0, done.stderr
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["system"], record["params"]) for record in records] == [("A", 7), ("B", 7), ("C", 7)]
    assert [record["rounds_ms"] for record in records] == list(times.values())
    assert [record["median_ms"] for record in records] == [20, 60, 10]
    assert [record["ratio"] for record in records] == [1, 2.5, 0.5]  # of the medians it would be 3 for B
    assert log.read_text() == "ABCBCACAB"
    assert sum(line.startswith("round ") for line in done.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no such card')", "ended before it gave READY (exit code 1)"),
        ("print('READY', flush=True); input(); import os; os.abort()", "ended before it gave an answer (signal 6)"),
        ("print('READY', flush=True); input(); print('{\"round_ms\": 0}', flush=True); input()", 'answered {"round_ms": 0}'),
        ("print('READY', flush=True); input(); print('{\"round_ms\": 1}', flush=True); input()", "gave a record (exit"),
        ("import time; time.sleep(600)", "did not give READY within 2 seconds"),
    ],
)  # fmt: skip
def test_a_system_that_fails_ends_all_with_its_name(tmp_path: Path, code: str, message: str) -> None:
    log = tmp_path / "order"
    began = time.monotonic()
    done = lockstep("--rounds", "1", "--patience", "2", system(ANSWERS, "A", log, "[1]"), system(code))
    assert time.monotonic() - began < 20
    assert done.returncode == 1 and not done.stdout
    assert message in done.stderr and "Traceback (most recent call last)" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lockstep: ") and repr(system(code)) in last


def test_a_command_that_is_none_is_said_so() -> None:
    done = lockstep("no-such-program --serve")
    assert done.returncode == 1 and "lockstep: 'no-such-program --serve' cannot be started" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_system_running(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """One of them waits as it should; the other is deaf to everything but SIGKILL."""
    mark = tmp_path / "pid"
    commands = [system(DEAF, mark), system(ANSWERS, "A", tmp_path / "order", "[1]")]
    running = subprocess.Popen([*LOCKSTEP, *commands], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        while "system 2 ready" not in (line := running.stderr.readline()):
            assert line, "it ended early"
        running.send_signal(number)
        running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == code
    assert has_ended(int(mark.read_text()))


@pytest.mark.slow
def test_transformers_trains_the_same_model_in_turn(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_models import SIZES

    config = tmp_path / "tiny.json"
    fields = SIZES | {"num_nextn_predict_layers": 0, "max_position_embeddings": 16}
    config.write_text(json.dumps({"hf": fields, "batch": 2, "seq": 16}))
    options = ["--config", str(config), "--device", "cpu", "--steps", "1", "--serve"]
    ours = [sys.executable, "-c", "from sapience.cli import main; main()", "bench", "train", *options]
    theirs = [sys.executable, str(ROOT / "benchmarks" / "transformers_train.py"), *options]
    done = lockstep("--rounds", "1", "--patience", "120", shlex.join(ours), shlex.join(theirs))
    assert done.returncode == 0, done.stderr
    here, there = (json.loads(line) for line in done.stdout.splitlines())
    assert (here["system"], there["system"]) == ("sapience", "transformers")
    for key in ("params", "gflops_per_token", "device", "threads"):
        assert here[key] == there[key]
    assert there["loss_first"] == pytest.approx(here["loss_first"], abs=0.05)
