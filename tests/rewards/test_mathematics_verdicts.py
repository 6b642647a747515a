"""What counts as a boxed result and when two results are the same; no text may break or delay the judge."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.problems.families import FAMILIES, generate
from sapience.problems.problem import Problem
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.math_judge import MathJudge, unreadable
from sapience.rewards.mathematics import ANSWER_FORMATS, boxed_answer, final_answer, judge_answer


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


@pytest.mark.parametrize(
    ("answer", "result"), [("52", "5²"), ("12", "1₂"), ("12", "1②"), ("21", "2①"), ("512", "5½"), ("5", "⑤")]
)
def test_raised_lowered_and_circled_digits_are_no_digits(answer: str, result: str) -> None:
    assert not judge_answer(problem(answer), rf"\boxed{{{result}}}").right


@pytest.mark.parametrize(
    ("text", "formats", "answer"),
    [
        (r"\boxed{5}", ("boxed",), "5"),
        ("#### 5", ("boxed",), None),
        ("5 + 5 = 10\n#### 1,234 ", ("hash",), "1,234"),
        ("#### 4\nno:\n#### 5\n", ("hash",), "5"),
        ("##### 5", ("hash",), None),
        ("see #### 5", ("hash",), None),
        ("####", ("hash",), None),
        ("Answer: 5", ("answer_line",), "5"),
        ("**Answer:** 5", ("answer_line",), "5"),
        ("**Final answer: 5**", ("answer_line",), "5"),
        ("So\nThe answer is 5.", ("answer_line",), "5."),
        ("The final answer is: $\\frac{1}{2}$", ("answer_line",), "$\\frac{1}{2}$"),
        ("答案：5\n答案是6", ("answer_line",), "6"),
        ("最终答案：$\\boxed{7}$", ("answer_line",), "7"),
        ("The answer is not clear. 5", ("answer_line",), "not clear. 5"),
        ("my answer: 5", ("answer_line",), None),
        ("5", ("boxed", "hash", "answer_line"), None),
        ("Answer: 4\n#### 5\n\\boxed{6}", ("hash", "boxed"), "5"),
        ("Answer: 4\n\\boxed{6", ("boxed", "answer_line"), "4"),
    ],
)
def test_a_final_answer_stands_only_where_a_format_says(
    text: str, formats: tuple[str, ...], answer: str | None
) -> None:
    assert final_answer(text, formats) == answer


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from boxed, hash, answer_line"):
        final_answer("5", ("last_number",))


def test_recipes_know_the_formats() -> None:
    assert RewardsSection(answer_formats=tuple(ANSWER_FORMATS)).answer_formats == tuple(ANSWER_FORMATS)
    assert RewardsSection().answer_formats == ("boxed",)


@pytest.mark.parametrize("family", [name for name in FAMILIES if generate(name, "train", 1, 0)[0].domain == "math"])
def test_every_generated_answer_can_be_read_and_is_right(family: str) -> None:
    problems = generate(family, "train", 40, 0)
    assert [problem.answer for problem in problems if unreadable(problem.answer)] == []
    with MathJudge(workers=1) as judge:
        assert all(verdict.right for verdict in judge.judge_many([(p, rf"\boxed{{{p.answer}}}") for p in problems]))


@pytest.mark.parametrize(
    ("right", "answer", "same"),
    [
        ("(x - 12) * 19 >= 72", r"(x-12)\cdot 19 \geq 72", True),
        ("(x - 12) * 19 >= 72", "72 <= 19 * (x - 12)", True),
        ("(x - 12) * 19 >= 72", "(x - 12) * 19 > 72", False),
        ("(x - 12) * 19 >= 72", "(x - 12) * 19 <= 72", False),
        ("(x - 12) * 19 >= 72", "x - 12 * 19 >= 72", False),
        ("x >= 3", r"[3, \infty)", True),
        ("x != 3", r"x \ne 3", True),
        ("x == 3", "3", True),
        ("5!=120", "5!=119", False),
    ],
)
def test_relations_as_they_are_typed(right: str, answer: str, same: bool) -> None:
    with MathJudge(workers=1) as judge:
        [verdict] = judge.compare_many([(right, answer)])
    assert verdict.right is same and verdict.kind in ("ok", "wrong"), verdict
