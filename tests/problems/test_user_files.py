"""A user's problem file: what is taken, what is put aside with which reason, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sapience.problems.scoring import score
from sapience.problems.user_files import LONGEST_LINE, load_jsonl
from sapience.recipe.errors import UserError


def test_plain_and_gsm8k_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": "What is 3 * 4?", "answer": "12"},
        {"question": "Two pens at 3 each?", "answer": "They cost 2*3=<<2*3=6>>6.\n\nSo 6.\n#### 6"},
        {"question": "Half of 5?", "answer": 2.5, "note": "extra keys are fine"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    loaded = load_jsonl(path, "math")
    assert loaded.bad_lines == ()
    plain, worked, number = loaded.problems
    assert (plain.family, plain.domain, plain.answer, plain.worked) == ("mine", "math", "12", "12")
    assert worked.answer == "6" and worked.worked == "They cost 2*3=6.\nSo 6. = 6" and worked.steps.endswith("So 6.")
    assert score(worked, worked.worked) and number.answer == "2.5"


def test_bad_lines_are_counted_with_reasons_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    good = json.dumps({"question": "q", "answer": "a"}).encode()
    huge = b'{"question": "' + b"x" * (3 * LONGEST_LINE) + b'", "answer": "a"}'
    lines = [good, b"\xff\xfe", b"{", b"[1]", b'{"question": "q2"}', b'{"question": "q3", "answer": "s ####"}', huge, good,
             b"[" * 100_000, b'{"question": "half a pair \\ud83d", "answer": "z"}',
             json.dumps({"question": "last", "answer": "z"}).encode()]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    loaded = load_jsonl(path)
    assert [problem.question for problem in loaded.problems] == ["q", "last"]
    assert [bad.number for bad in loaded.bad_lines] == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    reasons = [bad.reason for bad in loaded.bad_lines]
    assert reasons[0] == "not UTF-8" and "'answer' is missing" in reasons[3] and "longer than" in reasons[5]
    assert "same question" in reasons[6] and reasons[7] == "not JSON"


@pytest.mark.parametrize("content", ["", "{}\n", "not json"])
def test_a_file_without_problems_is_a_user_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="no usable problem"):
        load_jsonl(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl does not exist"):
        load_jsonl(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        load_jsonl(tmp_path)
