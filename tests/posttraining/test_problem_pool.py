"""What an iteration asks hangs on seed and iteration alone, comes from one split, and follows the weights."""

import json
from pathlib import Path

import pytest

from sapience.posttraining.problem_pool import ProblemPool
from sapience.problems.problem import split_of
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import ProblemFileSection, ProblemSetSection

SECTION = ProblemSetSection(families={"maxn": 3, "codefn": 1})


def test_an_iteration_asks_the_same_whatever_was_asked_before() -> None:
    one, two = ProblemPool(SECTION, 50, 7), ProblemPool(SECTION, 50, 7)
    for iteration in range(5):
        one.prompts(iteration, 4)
    assert one.prompts(5, 9) == two.prompts(5, 9) != two.prompts(6, 9)
    assert ProblemPool(SECTION, 50, 8).prompts(5, 9) != two.prompts(5, 9)


def test_only_the_wanted_split_is_asked_by_weight_and_behind_the_system_message() -> None:
    prompts = ProblemPool(SECTION, 100, 0).prompts(0, 4000, "Check.")
    assert all(p.problem is not None and split_of(p.problem.question) == "train" for p in prompts)
    assert {p.messages[0].content for p in prompts} == {"Check."}
    assert sum(p.category == "maxn" for p in prompts) / 4000 == pytest.approx(0.75, abs=0.03)


def test_the_first_problems_do_not_depend_on_the_size_of_the_pool() -> None:
    assert ProblemPool(SECTION, 20, 0).first(20) == ProblemPool(SECTION, 300, 0).first(20)
    assert len(ProblemPool(ProblemSetSection(families={"mul1": 1}), 10**5, 0).first(10**5)) > 500


def test_files_of_a_users_own_are_asked_and_empty_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is {n}?", "answer": n}) + "\n" for n in range(60)))
    pool = ProblemPool(ProblemSetSection(files=[ProblemFileSection(path=str(path))]), 5, 0)
    assert {p.category for p in pool.prompts(0, 20)} == {"mine"}
    questions = {p.question for p in pool.first(100)}
    assert questions == {f"What is {n}?" for n in range(60) if split_of(f"What is {n}?") == "train"}
    with pytest.raises(UserError, match="no problems are named"):
        ProblemPool(ProblemSetSection(), 5, 0)


def test_problems_in_all_come_in_turn_from_every_family() -> None:
    pool = ProblemPool(SECTION, 9, 0, "validation")
    chosen = pool.first_in_all(5)
    assert [p.family for p in chosen] == ["maxn", "codefn", "maxn", "codefn", "maxn"]
    assert chosen[::2] == pool.first(3)[:3] and len(pool.first_in_all(100)) == 18


def test_lines_of_a_users_file_that_are_no_problems_are_counted_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    good = [json.dumps({"question": f"What is {n}?", "answer": n}) for n in range(60)]
    path.write_text("\n".join([*good, "{", "}", good[0]]))
    file = ProblemFileSection(path=str(path))
    pool = ProblemPool(ProblemSetSection(families={"maxn": 1}, files=[file, file]), 5, 0)
    assert pool.unusable == {f"{path}: not JSON": 2, f"{path}: the same question again": 1}


def test_a_right_answer_that_cannot_be_read_is_an_error_of_the_data(tmp_path: Path) -> None:
    """Nothing is called wrong beside it: the problem is put aside and counted."""
    path = tmp_path / "mine.jsonl"
    answers = ["7", "1/2", "see the figure above \\[", "x = 3"]
    lines = [json.dumps({"question": f"Question {n}?", "answer": answer}) for n, answer in enumerate(answers)]
    path.write_text("\n".join(lines) + "\n")
    section = ProblemSetSection(files=[ProblemFileSection(path=str(path), domain="math", use="train")])
    pool = ProblemPool(section, 10, 0)
    kept = {problem.answer for problem in pool.first(10)}
    assert "see the figure above \\[" not in kept and kept <= set(answers)
    [(reason, count)] = [item for item in pool.unusable.items() if "cannot be read" in item[0]]
    assert str(path) in reason and count == 1
