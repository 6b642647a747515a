"""`sapience judge PROBLEM.json SOLUTION`: one verdict, as people and programs read it, and what is wrong with a problem."""

import json
from pathlib import Path
from typing import Any

import pytest
from available_tiers import sandbox_of

from sapience.cli import main
from sapience.recipe import UserError
from sapience.rewards.single import read_problem

SUM = {"language": "python", "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 5", "stdout": "10"}]}
ADD = {"entry_point": "add", "tests": [{"args": [1, 2], "returns": 3}, {"args": ["a", "b"], "returns": "ab"}]}


def judged(
    tmp_path: Path, problem: Any, source: str, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    sandbox_of("bubblewrap")
    (tmp_path / "problem.json").write_text(problem if isinstance(problem, str) else json.dumps(problem))
    (tmp_path / "solution").write_text(source)
    with pytest.raises(SystemExit) as ended:
        main(["judge", str(tmp_path / "problem.json"), str(tmp_path / "solution"), *options])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


@pytest.mark.parametrize(
    ("problem", "source", "verdict", "passed"),
    [
        (SUM, "print(sum(map(int, input().split())))", "ok", 2),
        (SUM, "print(3)", "wrong", 1),
        (SUM, "print(", "compile_error", 0),
        (ADD, "def add(a, b): return a + b", "ok", 2),
        (ADD, "def add(a, b): return a - b", "wrong", 0),
        (ADD | {"limits": {"cpu_seconds": 0.3}}, "def add(a, b):\n    while True: pass", "timeout", 0),
        (
            ADD | {"tests": [{"args": [1, 2], "returns": 3.001, "tolerance": 0.01}]},
            "def add(a, b): return a + b",
            "ok",
            1,
        ),
    ],
)
def test_the_verdict_as_json(
    problem: Any, source: str, verdict: str, passed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = judged(tmp_path, problem, source, capsys, "--json")
    record = json.loads(out)
    assert code == 0 and set(record) == {"verdict", "passed", "total", "detail"}
    assert (record["verdict"], record["passed"], record["total"]) == (verdict, passed, len(problem["tests"]))


def test_the_verdict_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(tmp_path, SUM, "print(3)", capsys)[1].startswith("wrong, 1 of 2 tests passed: ")


BAD: list[tuple[Any, str]] = [
    ("{", "no JSON"),
    ("[]", "no JSON object"),
    ({"language": "cobol", "tests": SUM["tests"]}, "'cobol'"),
    ({"language": "python"}, "`tests`"),
    ({"tests": []}, "`tests`"),
    ({"tests": [{"stdin": 3, "stdout": "x"}]}, "test 1"),
    ({"tests": [{"stdin": "", "stdout": "x"}, {"stdin": ""}]}, "test 2"),
    ({"entry_point": "f", "tests": [{"args": 1, "returns": 1}]}, "`args`"),
    ({"entry_point": "f", "tests": [{"args": [1], "returns": 1, "tolerance": "x"}]}, "tolerance"),
    (SUM | {"limits": {"hours": 3}}, "`limits`"),
    (SUM | {"limits": {"cpu_seconds": -1}}, "cpu_seconds"),
    (SUM | {"limits": {"cpu_seconds": "long"}}, "numbers"),
]


@pytest.mark.parametrize(("problem", "words"), BAD)
def test_a_problem_that_is_none_is_named(problem: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "problem.json"
    path.write_text(problem if isinstance(problem, str) else json.dumps(problem))
    with pytest.raises(UserError, match=words):
        read_problem(path)


def test_mistakes_end_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = judged(tmp_path, ADD | {"language": "rust", "entry_point": "add()"}, "fn add() {}", capsys)
    assert code == 2 and "'add()' is no function's name in rust" in err
    with pytest.raises(SystemExit) as ended:
        main(["judge", str(tmp_path / "none.json"), str(tmp_path / "solution")])
    assert ended.value.code == 2 and "none.json" in capsys.readouterr().err
