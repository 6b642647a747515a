"""The judge of mathematics against labels, against released right answers, and against texts written to fool or stop it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_answers import labelled_answers, released

from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.rewards import math_pool
from sapience.rewards.math_judge import MathJudge, quick_verdict, unreadable
from sapience.rewards.math_pool import MathPool
from sapience.rewards.math_text import LONGEST

SECONDS = 2.0


@pytest.fixture(scope="module")
def judge() -> Iterator[MathJudge]:
    with MathJudge(workers=1, seconds=SECONDS) as one:
        yield one


def problem(answer: str) -> Problem:
    return Problem("own", "math", "What?", answer, answer)


def children() -> set[int]:
    """Process numbers of workers that this test started, zombies among them."""
    while True:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread has just ended, its children are another's now
            tasks = list(Path("/proc/self/task").iterdir())
            return {int(child) for task in tasks for child in (task / "children").read_text().split()} - OTHERS


OTHERS: set[int] = set()


@pytest.fixture
def alone() -> Iterator[None]:
    OTHERS.clear()
    OTHERS.update(children())
    yield
    OTHERS.clear()


def test_labelled_answers_are_judged_as_labelled(judge: MathJudge) -> None:
    labelled = labelled_answers()
    assert len(labelled) >= 1000
    verdicts = judge.compare_many([(one.right, one.given) for one in labelled])
    accepted = [one for one, verdict in zip(labelled, verdicts, strict=True) if verdict.right and not one.same]
    rejected = [one for one, verdict in zip(labelled, verdicts, strict=True) if not verdict.right and one.same]
    assert accepted == []
    assert len(rejected) < 0.01 * sum(one.same for one in labelled), rejected
    assert {verdict.kind for verdict in verdicts} == {"ok", "wrong"}
    by_category = Counter((one.category, one.same) for one in labelled)
    assert all(by_category[category, label] for category, _ in by_category for label in (True, False))


def test_every_label_has_a_right_answer_that_reads() -> None:
    assert {one.right: reason for one in labelled_answers() if (reason := unreadable(one.right))} == {}


HOSTILE = [
    (right, said)
    for right in ("5", r"2\sqrt{5}", "x+y", r"\{1,2\}", "(1,2)")
    for said in [
        "5^{5^{5^5}}",
        "5^(5^(5^5))",
        r"10^{10^{10}}",
        r"\sqrt{5^{5^{5}}}",
        r"e^{e^{e^{e^{e^{5}}}}}",
        "9" * 900 + "!",
        "5!!!!!!",
        "((((5!)!)!)!)!",
        "{" * 100_000,
        "{" * 450 + "5" + "}" * 450,
        "(" * 100 + "5" + ")" * 100,
        "\\boxed{" * 60 + "5" + "}" * 60,
        "\\frac{1}{" * 60 + "5" + "}" * 60,
        "__import__('os').system('touch /tmp/fooled')",
        "5; import os",
        "exec('5')",
        "S(5)",
        "Symbol('x')",
        "lambda: 5",
        "x | x == x",
        r"\{x | x = x\}",
        r"\text{True}",
        "True",
        "None",
        "*",
        ".*",
        "nan",
        r"\infty",
        r"\pm\infty",
        "1, 2, 3, 4, 5",
        "1 or 2 or 3 or 4 or 5",
        r"\{1,2,3,4,5\}",
        r"(-\infty,\infty)",
        r"1 \le x \le 5",
        r"\text{the right answer}",
        r"\frac{0}{0}",
        r"\frac{5}{0}",
        r"0^0",
        "5\u200b6",
        "\u202e5",
        "5\u0000",
        "５\u0338",
        "\u0665",
        "5²",
        "5 6",
        "5 = 5",
        "x = y = 5",
        "5 \\neq 6",
        "5 \\approx 5",
        "\\left" * 150,
        "\\begin{pmatrix}" * 60,
        "5" + "." * 800,
        "-" * 900 + "5",
        "+".join(["x"] * 390),
        r"\sin " * 120 + "5",
    ]
]


def test_no_hostile_answer_is_accepted_or_outlasts_its_deadline(judge: MathJudge) -> None:
    for right, said in HOSTILE:
        begun = time.process_time()
        verdict = quick_verdict(right, said)
        assert time.process_time() - begun < 0.5, said[:60]
        assert verdict is None or verdict.kind == "wrong", (right, said[:60], verdict)
    left = [pair for pair in HOSTILE if quick_verdict(*pair) is None]
    verdicts = judge.compare_many(left)
    assert [(pair, one) for pair, one in zip(left, verdicts, strict=True) if one.kind != "wrong"] == []
    assert not Path("/tmp/fooled").exists()


_SIGNS = "1 5 0 , ; + - * / ^ _ ! % ( ) [ ] { } | $ = < x i m 个 十 万 百 分之 又 负 ± ° ½ ² : ≤ ﷺ \ud800 \0 \n million e5 or"
_COMMANDS = r"\{ \} \frac \sqrt \pi \text{ \left \pm \cup \in \begin{pmatrix} \end{pmatrix} & \\ \binom{ \log_"
PIECES = st.sampled_from([*_SIGNS.split(" "), *_COMMANDS.split(" ")])
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.builds(
    lambda piece, often: piece * often, PIECES, st.integers(1, 999)
)


@given(TEXTS | st.text(), TEXTS | st.text() | st.sampled_from(["5", "x", "(1,2)", "1,2", "x=5", r"5\text{ cm}"]))
@settings(deadline=2000)
def test_no_text_breaks_the_reader(said: str, right: str) -> None:
    verdict = quick_verdict(right, said)
    assert verdict is None or verdict.kind in ("ok", "wrong", "infra_error")
    assert verdict is None or (verdict.kind == "infra_error") <= (unreadable(right) is not None)


@pytest.mark.parametrize(
    "given_answer",
    [
        r"2\sqrt{5}+10^{-50}",
        r"2\sqrt{5}(1+10^{-26})",
        r"2\sqrt{5}+\sin(10^{-30})",
        r"2\sqrt{5}+(\sqrt{26}-5)^{40}",
        r"2\sqrt{5}+e^{-300}",
        "4.47213595499957939281834733746255247088123671922305144854179449082104185127560979882882881675756454",
    ],
)
def test_no_number_is_near_enough(judge: MathJudge, given_answer: str) -> None:
    assert judge.compare_many([(r"2\sqrt{5}", given_answer)])[0].kind == "wrong"


def test_a_spent_worker_is_ended_reaped_and_replaced(alone: None) -> None:
    slow = (r"\sqrt{2}", r"\sqrt{10^{5000}+1}")
    with MathPool(workers=1, deadline=0.3) as pool:
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "same"
        (first,) = children()
        begun = time.monotonic()
        outcomes = pool.equal_many([slow, ("x+1", "1+x")])
        assert [outcome.kind for outcome in outcomes] == ["timeout", "same"]
        assert time.monotonic() - begun < 15
        (second,) = children()
        assert first != second
    assert children() == set()


def test_a_lost_worker_costs_no_verdict(alone: None) -> None:
    with MathPool(workers=1) as pool:
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "same"
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "same"
    assert children() == set()


def test_where_no_worker_starts_nothing_is_called_lost(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a package that only this process knows a place for is found by the workers as well, here one that does not load
    (tmp_path / "sympy.py").write_text("raise ImportError('another sympy')")
    monkeypatch.syspath_prepend(tmp_path)
    with MathPool(workers=2) as pool, pytest.raises(UserError, match=r"no process for algebra answers .*another sympy"):
        pool.equal_many([("x+1", "1+x"), ("x+2", "2+x")])
    assert children() == set()


def test_a_worker_that_is_kept_from_running_is_no_wrong_answer(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_pool, "_WALL_FACTOR", 0.0)
    monkeypatch.setattr(math_pool, "_WALL_EXTRA_SECONDS", 0.5)
    with MathPool(workers=1) as pool:
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "same"
        (worker,) = children()
        os.kill(worker, signal.SIGSTOP)
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "same"
        assert worker not in children()
        monkeypatch.setattr(math_pool._Worker, "_reply", lambda *_: None)
        assert pool.equal_many([("x+1", "1+x")])[0].kind == "lost"
    assert children() == set()


def test_workers_end_with_their_parent() -> None:
    program = (
        "from sapience.rewards.math_pool import MathPool; import os, signal\n"
        "pool = MathPool(1); pool.equal_many([('x+1', '1+x')])\n"
        "print(pool._idle.get()._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    worker = Path("/proc", said.stdout.strip())
    until = time.monotonic() + 20
    while worker.exists() and "Z" not in (worker / "stat").read_text().rpartition(")")[2] and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.exists() or "Z" in (worker / "stat").read_text().rpartition(")")[2]


def test_threads_may_share_a_judge(judge: MathJudge) -> None:
    found: list[str] = []

    def ask(number: int) -> None:
        pair = (problem(f"x+{number}"), rf"\boxed{{{number}+x}}")
        found.extend(verdict.kind for verdict in judge.judge_many([pair] * 3))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["ok"] * 18


def test_a_judge_takes_the_format_that_was_asked_for() -> None:
    with MathJudge(("hash", "answer_line")) as judge:
        texts = ["#### 1/2", r"\boxed{1/2}", "答案：二分之一", "Answer: 2"]
        verdicts = judge.judge_many([(problem("0.5"), text) for text in texts])
    assert [verdict.kind for verdict in verdicts] == ["ok", "format_error", "ok", "wrong"]
    with pytest.raises(ValueError, match="answer format"):
        MathJudge(("last_number",))


@pytest.mark.parametrize("right", ["", "  ", "5 6", "5^{5^{5^5}}", r"\frac{1}{0}", "1/2x", "(1,2", "x" * (LONGEST + 1)])
def test_a_right_answer_that_cannot_be_read_is_an_error_of_the_data(right: str, judge: MathJudge) -> None:
    assert unreadable(right)
    (verdict,) = judge.judge_many([(problem(right), r"\boxed{7}")])
    assert verdict.kind == "infra_error"
    assert "error of the data" in verdict.detail


def test_what_algebra_cannot_compute_is_an_error_of_the_data_too(judge: MathJudge) -> None:
    (verdict,) = judge.compare_many([(r"(x+y)^{99999}", "x")])
    assert verdict.kind == "infra_error"


def test_only_workers_load_algebra() -> None:
    program = (
        "import sys, sapience.rewards.math_judge, sapience.recipe.rewards\n"
        "assert not {'sympy', 'math_verify', 'torch', 'numpy'} & set(sys.modules)\n"
        "import sapience.rewards.math_algebra; assert 'sympy' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "cmath_test_deepseek"])
def test_released_right_answers_equal_themselves_spelled_otherwise(name: str, judge: MathJudge) -> None:
    rights = list(dict.fromkeys(released(name)))
    assert [right for right in rights if unreadable(right)] == []
    pairs = [(right, said) for right in rights for said in respelled(right)]
    verdicts = judge.compare_many(pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict.right] == []


def respelled(right: str) -> list[str]:
    forms = [
        f"$ {right} $",
        rf"\({right}\).",
        right.replace(r"\frac{", r"\dfrac{").replace("}{", "} {"),
        f"{right} \\,",
    ]
    forms.append(right.replace("(", r"\left(").replace(")", r"\right)") if r"\left" not in right else right)
    if value := number(right):
        forms += [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    return forms


def number(right: str) -> Fraction | None:
    line = re.sub(r"(?<=[0-9]),(?:\\!\s*)?(?=[0-9]{3}(?![0-9]))", "", right)
    return Fraction(line) if re.fullmatch(r"-?(?:[0-9]*\.)?[0-9]+|[0-9]+/[0-9]+", line) else None


def test_released_right_answers_of_other_problems_are_wrong(judge: MathJudge) -> None:
    draw = random.Random(5)
    rights = [right for name in ("math500", "gsm8k_test", "cmath_test_deepseek") for right in set(released(name))]
    wordy = [right for right in sorted(rights) if number(right) is None]
    numbers = [right for right in sorted(rights) if number(right) is not None]
    pairs = [(draw.choice(numbers), draw.choice(numbers)) for _ in range(4000)]
    for (right, said), verdict in zip(pairs, judge.compare_many(pairs), strict=True):
        assert verdict.right == (number(right) == number(said)), (right, said)
    pairs = [(draw.choice(wordy), draw.choice(wordy)) for _ in range(1500)]
    accepted = [pair for pair, verdict in zip(pairs, judge.compare_many(pairs), strict=True) if verdict.right]
    assert {pair for pair in accepted if plain(pair[0]) != plain(pair[1])} == set()


def plain(right: str) -> str:
    """The same for the few released right answers that are equal though they are not the same text."""
    line = right.replace("dfrac", "frac").replace(" ", "").replace(r"\!", "").replace(r"\$", "")
    return line.replace("{", "").replace("}", "")
