"""What counts as a boxed result and when two results are the same; no text may break or delay the judge."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.problems.problem import Problem
from sapience.rewards.mathematics import boxed_answer, judge_answer


def problem(answer: str) -> Problem:
    return Problem("own", "math", "What?", answer, answer)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("so it is 5", None),
        (r"\boxed{5}", "5"),
        (r"first \boxed{4}, no: \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{5", None),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5} }", "5"),
        (r"\boxed{a \boxed{b} c}", "b"),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        ("\\boxed{\n5\n}", "\n5\n"),
    ],
)
def test_the_last_balanced_box_counts(text: str, content: str | None) -> None:
    assert boxed_answer(text) == content


@pytest.mark.parametrize(
    ("answer", "result", "right"),
    [
        ("5", "5", True),
        ("5", " 5. ", True),
        ("5", "+5", True),
        ("5", "5.0", True),
        ("5", "05", True),
        ("5", "５", True),
        ("-5", "−5", True),
        ("1000", "1e3", True),
        ("0.1", ".1", True),
        ("0.1", "0.10000000000000000000000000000001", False),
        ("12345678901234567890123", "12345678901234567890124", False),
        ("1000", "1,000", False),
        ("1,000", "1,000", True),
        ("0.5", "1/2", False),
        ("5", "5 cm", False),
        ("5", "6", False),
        ("5", "", False),
        ("5", "5..", False),
        ("5", "5_0", False),
        ("50", "5_0", False),
        ("5", "٥", False),
        ("NaN", "nan", False),
        ("inf", "Infinity", False),
        ("two  words", "two\nwords", True),
        ("x", "X", False),
        ("1e999", "1e+999", True),
        ("1", "1e999999999", False),
        ("1e999999999", "1e999999999", True),
    ],
)
def test_results_are_the_same_as_text_or_as_number(answer: str, result: str, right: bool) -> None:
    verdict = judge_answer(problem(answer), rf"Thus \boxed{{{result}}}.")
    assert verdict.kind == ("ok" if right else "wrong")
    assert (verdict.right, verdict.passed, verdict.total) == (right, int(right), 1)


def test_no_box_is_an_error_of_form() -> None:
    assert judge_answer(problem("5"), "5").kind == "format_error"


def test_a_verdict_is_a_json_object() -> None:
    assert judge_answer(problem("5"), r"\boxed{5}").record() == {"kind": "ok", "passed": 1, "total": 1, "detail": ""}


PIECES = st.sampled_from(["\\boxed{", "}", "{", "\\", "e9", "1", ".", "-", "٣", "½", "\ud800", "\0", "$", "ﷺ"])


@given(st.text() | st.lists(PIECES | st.text(max_size=3)).map("".join), st.text() | st.lists(PIECES).map("".join))
def test_no_text_breaks_the_judge(text: str, answer: str) -> None:
    for said in (text, rf"\boxed{{{text}}}"):
        assert judge_answer(problem(answer), said).kind in ("ok", "wrong", "format_error")


@given(
    st.text(alphabet="0123456789abc +-./{}", max_size=30).filter(lambda text: text.count("{") == text.count("}") == 0)
)
def test_every_answer_is_the_same_as_itself(answer: str) -> None:
    assert judge_answer(problem(answer), rf"\boxed{{{answer}}}").right


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "\\boxed{" * 50_000 + "}" * 50_000,
        "\\boxed{" + "9" * 1_000_000 + "}",
        "\\boxed{1e" + "9" * 100_000 + "}",
        "\\boxed{" + "ﷺ" * 4_000 + "}",
        "\\" * 500_001 + "boxed{5}",
    ],
    ids=lambda text: text[:12],
)
def test_no_text_delays_the_judge(text: str) -> None:
    begun = time.process_time()
    judge_answer(problem("1e900"), text)
    assert time.process_time() - begun < 1.0
