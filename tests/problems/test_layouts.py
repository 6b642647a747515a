"""Each layout's records become problems; each malformed one is refused with its reason."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.problems.contest_layouts import UNPACKED
from sapience.problems.layouts import Layout, last_box, layout_of, official_split, problem_from, published_text
from sapience.problems.problem import Problem, StreamCase, TestCase
from sapience.recipe.problem_sets import ProblemFileSection

GSM8K = {"question": "Two pens at 3 each?", "answer": "They cost 2*3=<<2*3=6>>6.\n\nSo 6.\n#### 6"}
MATH = {
    "problem": "What is $1/2+1/2$?",
    "solution": "It is\n\n\\boxed{\\frac{2}{2}} or \\boxed{1 + \\text{0 \\} }}.",
    "level": "1",
}
HUMANEVAL = {
    "task_id": "HumanEval/999",
    "prompt": 'import math\n\n\ndef near(x: float, up: bool = False) -> int:\n    """ Whole number\n\n    near x.\n    """\n',
    "canonical_solution": "    y = math.floor(x)\n\n    return y + up\n",
    "entry_point": "near",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n"
    "    assert candidate(1.5) == 1, 'no'\n    assert candidate(1.5, up=True) == 2\n",
}
MBPP = {
    "text": "Write a function to add two numbers.",
    "code": "def helper(a):\r\n  return a\r\n\r\ndef add(a, b): \r\n\treturn helper(a)+b",
    "task_id": 700,
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add((1,), (2,)) == (1, 2)"],
    "challenge_test_list": [],
}  # fmt: skip
APPS: dict[str, Any] = {
    "question": "Add all numbers of a line.",
    "solutions": json.dumps(["print raw_input()", "print(sum(map(int, input().split())))"]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]}),
    "starter_code": "",
}
APPS_FUNCTION = APPS | {
    "input_output": json.dumps({"fn_name": "total", "inputs": [[[1, 2]], [[]]], "outputs": [[3], [0]]}),
    "solutions": json.dumps(["class Solution:\n    def total(self, a):\n\n        return sum(a)"]),
    "starter_code": "class Solution:\n    def total(self, a: List[int]) -> int:\n        ",
}
LIVE = {
    "question_content": "Add all numbers of a line.",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "4", "output": "4", "testtype": "stdin"}]),
    "starter_code": "",
    "metadata": "{}",
}
LIVE_FUNCTION = LIVE | {
    "public_test_cases": json.dumps([{"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional"}]),
    "private_test_cases": "",
    "starter_code": "class Solution:\n    def total(self, a: List[int], s: str) -> List[int]:\n        ",
    "metadata": json.dumps({"func_name": "total"}),
}


def made(record: dict[str, Any]) -> Problem:
    return problem_from(record, layout_of(record), "mine")


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("record", "layout"),
    [
        ({"question": "q", "answer": "a"}, "question_answer"), (GSM8K, "gsm8k"), (MATH, "math"),
        ({"question": "q", "golden": "1", "grade": 1}, "cmath"), (HUMANEVAL, "humaneval"), (MBPP, "mbpp"), (APPS, "apps"),
        (LIVE, "livecodebench"), ({"problem": "p", "answer": 3}, "math"),
    ],
)  # fmt: skip
def test_a_layout_is_told_by_its_keys(record: dict[str, Any], layout: Layout) -> None:
    assert layout_of(record) == layout
    problem_from(record, layout, "mine")
    assert published_text(record, layout).strip()
    with pytest.raises(ValueError, match="of no known layout"):
        layout_of({"title": 1})


def test_a_recipe_may_name_every_layout() -> None:
    named = get_args(ProblemFileSection.model_fields["layout"].annotation)
    assert set(named) == {"auto", *get_args(Layout)}


def test_texts_and_their_steps() -> None:
    plain = made({"question": " Half of 5? ", "answer": 2.5})
    assert (plain.question, plain.answer, plain.worked, plain.domain) == ("Half of 5?", "2.5", "2.5", "math")
    worked = made(GSM8K)
    assert worked.answer == "6" and worked.worked == "They cost 2*3=6.\nSo 6. = 6"
    boxed = made(MATH)
    assert boxed.answer == "1 + \\text{0 \\} }" and boxed.steps.startswith("It is\n\\boxed")
    assert made(MATH | {"answer": "1"}).answer == "1"
    assert made({"question": "一加一？", "golden": 2}).answer == "2"
    assert problem_from(GSM8K, "gsm8k", "mine", "general").domain == "general"


@pytest.mark.parametrize(
    ("text", "box"),
    [("\\boxed{a} \\fbox{}", ""), ("$\\boxed 12$.", "12"), ("\\boxed{a{b}c", ""), ("\\boxed{\\}}", "\\}"), ("none", ""),
     ("\\boxed{1} and \\boxed{{2}}", "{2}")],
)  # fmt: skip
def test_the_last_box_counts(text: str, box: str) -> None:
    assert last_box(text) == box


BRACED = st.recursive(
    st.text("ab |", max_size=3), lambda inner: st.lists(inner).map(lambda parts: "{" + "".join(parts) + "}")
)


@given(BRACED)
def test_a_box_ends_with_the_brace_that_closes_it(content: str) -> None:
    assert last_box(f"so \\boxed{{{content}}} }} {{") == content.strip()


def test_humaneval_asks_for_the_beginning_and_answers_with_a_whole_program() -> None:
    problem = made(HUMANEVAL)
    assert (
        problem.question
        == f"Write the Python function `near` that begins like this:\n\n```python\n{HUMANEVAL['prompt'].strip()}\n```"
    )
    assert problem.answer == (
        "import math\ndef near(x: float, up: bool = False) -> int:\n    y = math.floor(x)\n    return y + up"
    )
    assert problem.tests == (TestCase((1.5,), 1, 0.0), TestCase((1.5, True), 2, 0.0))
    assert (problem.domain, problem.language, problem.entry_point) == ("code", "python", "near")


def test_mbpp_names_the_function_and_shows_one_call() -> None:
    problem = made(MBPP)
    assert problem.question == (
        "Write a function to add two numbers.\n\nWrite it as the Python function `add(a, b)`. "
        "For example, `add(1, 2)` returns `3`."
    )
    assert problem.answer == "def helper(a):\n  return a\ndef add(a, b):\n\treturn helper(a)+b"
    assert problem.tests == (TestCase((1, 2), 3, 0.0), TestCase(((1,), (2,)), (1, 2), 0.0))
    only = made(MBPP | {"test_list": MBPP["test_list"][:1]})
    assert "`add(1, 2)`" in only.question and "3" not in only.question
    sanitized = {k: v for k, v in MBPP.items() if k != "text"} | {"prompt": "Add.", "test_imports": ["import math"]}
    assert made(sanitized).question.startswith("Add.\n")


@pytest.mark.parametrize(
    ("number", "split"),
    [(1, "train"), (10, "train"), (11, "test"), (510, "test"), (511, "validation"), (600, "validation"), (601, "train"),
     (974, "train"), (975, None), (0, None), ("11", None), (True, None)],
)  # fmt: skip
def test_mbpp_is_split_by_its_authors(number: Any, split: str | None) -> None:
    assert official_split(MBPP | {"task_id": number}, "mbpp") == split
    assert official_split(GSM8K | {"task_id": 11}, "gsm8k") is None


def test_contest_programs_and_functions() -> None:
    program = made(APPS)
    assert program.tests == (StreamCase("1 2\n", "3\n"), StreamCase("3\n4", "7")) and program.entry_point == ""
    assert program.answer == "print(sum(map(int, input().split())))"
    assert "standard input" in program.question and "Python" in program.question
    function = made(APPS_FUNCTION)
    assert function.tests == (TestCase(([1, 2],), 3, 0.0), TestCase(([],), 0, 0.0))
    assert function.question == "Write the Python function `total(a: List[int])`.\n\nAdd all numbers of a line."
    space: dict[str, Any] = {}
    exec(function.answer, space)
    assert space["total"]([1, 2]) == 3 and "\n\n" not in function.answer
    assert made(APPS | {"solutions": ""}).answer == ""
    live = made(LIVE)
    assert live.tests == (StreamCase("1 2\n", "3"), StreamCase("4", "4"))
    assert made(LIVE | {"private_test_cases": packed(LIVE["private_test_cases"].encode())}) == live
    assert made(LIVE_FUNCTION).tests == (TestCase(([1, 2], "x"), [3], 0.0),)
    assert "`total(a: List[int], s: str)`" in made(LIVE_FUNCTION).question


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["4\nüß €", "7" * 70_000], ids=["short", "long"])
def test_pickled_tests_are_those_that_were_pickled_and_a_cut_pickle_is_none(text: str, protocol: int) -> None:
    tests = json.dumps([{"input": text, "output": "4", "testtype": "stdin"}], ensure_ascii=False)
    pickled = pickle.dumps(tests, protocol)
    assert made(LIVE | {"private_test_cases": packed(pickled)}).tests[1:] == (StreamCase(text, "4"),)
    for end in (1, 2, 5, 11, len(pickled) // 2, len(pickled) - 1):
        with pytest.raises(ValueError, match="a pickle that breaks off or is damaged"):
            made(LIVE | {"private_test_cases": packed(pickled[:end])})


class Attack:
    """Pickled, a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"mkdir {self.folder}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_runs_none(protocol: int, tmp_path: Path) -> None:
    attack = pickle.dumps(Attack(tmp_path / "struck"), protocol)
    for data in (attack, pickle.dumps("[]", protocol)[:-1] + attack.removeprefix(bytes([0x80, protocol]))):
        with pytest.raises(ValueError, match=r"could run code|is not JSON"):
            made(LIVE | {"private_test_cases": packed(data)})
    assert not (tmp_path / "struck").exists()
    pickle.loads(attack)
    assert (tmp_path / "struck").exists()  # as it would have


@given(st.binary(max_size=60), st.sampled_from([b"\x80\x04", b"V", b"X", b"\x80\x05\x95"]))
def test_whatever_stands_in_a_pickle_is_read_or_refused_in_words(rest: bytes, begins: bytes) -> None:
    try:
        made(LIVE | {"private_test_cases": packed(begins + rest)})
    except ValueError as error:
        assert str(error).startswith("'private_test_cases' is")


SURROGATE = "\ud83d"
DEEP = "[" * 3000 + "]" * 3000
BAD: list[tuple[dict[str, Any], str]] = [
    ({"question": "q"}, "'answer' is missing or empty"),
    ({"question": ["q"], "answer": "a"}, "'question' is missing or empty"),
    ({"question": "q", "answer": True}, "'answer' is missing or empty"),
    ({"question": "q", "answer": float("nan")}, "no finite number"),
    ({"question": "q", "answer": "steps ####"}, "nothing stands behind '####'"),
    ({"problem": "p", "solution": "no box"}, r"no \\boxed"),
    ({"problem": "p", "solution": 3}, "'solution' is no text"),
    ({"problem": "", "answer": "3"}, "'problem' is missing or empty"),
    ({"question": "q", "golden": None}, "'golden' is missing or empty"),
    (HUMANEVAL | {"canonical_solution": None}, "'canonical_solution' is missing"),
    (HUMANEVAL | {"entry_point": "far"}, "defines no function 'far'"),
    (HUMANEVAL | {"canonical_solution": "    return ("}, "no Python"),
    (HUMANEVAL | {"test": "def check(candidate):\n    pass"}, "no test can be read: there is none"),
    (HUMANEVAL | {"test": "def verify(candidate):\n    pass"}, "no function check"),
    (HUMANEVAL | {"test": f"def check(candidate):\n    assert candidate({'(' * 3000}1{')' * 3000}) == 1"}, "no Python"),
    (HUMANEVAL | {"test": f"def check(candidate):\n    assert candidate({'-' * 90}1) == 1"}, "nested too deeply"),
    (HUMANEVAL | {"test": "def check(candidate):\n    assert candidate(9 ** 9 ** 9) == 1"}, "too large"),
    (HUMANEVAL | {"test": "def check(candidate):\n    assert candidate('\\ud83d') == 1"}, "more than plain values"),
    (MBPP | {"test_list": []}, "'test_list' is empty"),
    (MBPP | {"test_list": "assert add(1, 2) == 3"}, "'test_list' is no list of texts"),
    (MBPP | {"test_list": ["assert plus(1, 2) == 3"]}, "the tests call no function that 'code' defines"),
    (MBPP | {"test_list": ["assert add(x, y) == 3"]}, "no test can be read: x is no literal"),
    (MBPP | {"code": "def add(a, b)\n"}, "no Python"),
    (MBPP | {"test_setup_code": 3}, "'test_setup_code' is no text"),
    (APPS | {"input_output": ""}, "'input_output' is not JSON"),
    (APPS | {"input_output": "[]"}, "'input_output' is no JSON object"),
    (APPS | {"input_output": DEEP * 20}, "'input_output' is not JSON"),
    (APPS | {"input_output": '{"inputs": [], "outputs": []}'}, "no tests"),
    (APPS | {"input_output": '{"inputs": ["1"], "outputs": []}'}, "of one length"),
    (APPS | {"input_output": '{"inputs": [3], "outputs": ["1"]}'}, "of a test is no text"),
    (APPS | {"input_output": json.dumps({"inputs": [SURROGATE], "outputs": ["1"]})}, "half of a surrogate pair"),
    (APPS | {"solutions": "[1]"}, "'solutions' is no list of texts"),
    (APPS | {"input_output": '{"fn_name": "f", "inputs": [[NaN]], "outputs": [1]}'}, "not JSON"),
    (APPS | {"input_output": '{"fn_name": "f", "inputs": [[1e999]], "outputs": [1]}'}, "more than plain values"),
    (APPS | {"input_output": '{"fn_name": "f", "inputs": [1], "outputs": [1]}'}, "no list of arguments"),
    (APPS | {"input_output": '{"fn_name": "1f", "inputs": [[1]], "outputs": [1]}'}, "no name of the function"),
    (LIVE | {"public_test_cases": "", "private_test_cases": ""}, "no tests"),
    (LIVE | {"private_test_cases": packed(pickle.dumps(b"[]"))}, r"pickle of other things than one text.*PROTO.*BYTES"),
    (LIVE | {"private_test_cases": packed(pickle.dumps(["[]"]))}, r"pickle of other things than one text.*EMPTY_LIST"),
    (LIVE | {"private_test_cases": packed(pickle.dumps(None))}, r"pickle of other things than one text \(PROTO NONE STOP\)"),
    (LIVE | {"private_test_cases": packed(b"V[]\n" * 3 + b".")}, "pickle of other things than one text"),
    (LIVE | {"private_test_cases": packed(b"\x80\x04" + b"\x94" * 10**6 + b".")}, "pickle of other things than one text"),
    (LIVE | {"private_test_cases": packed(b"\x80\x04\x8d" + b"\xff" * 8 + b"[].")}, "breaks off or is damaged"),
    (LIVE | {"private_test_cases": packed(pickle.dumps("no tests"))}, "'private_test_cases' is not JSON"),
    (LIVE | {"private_test_cases": packed(pickle.dumps("{}"))}, "no list of tests"),
    (LIVE | {"private_test_cases": packed(pickle.dumps(" " * UNPACKED))}, "unpacks to more than"),
    (LIVE | {"private_test_cases": packed(b"[]")[:-8]}, "neither JSON nor base64|breaks off"),
    (LIVE | {"private_test_cases": base64.b64encode(zlib.compress(b"[1, 2]" * 99)[:-9]).decode()}, "breaks off"),
    (LIVE | {"private_test_cases": packed(b"\xff")}, "not UTF-8"),
    (LIVE | {"private_test_cases": packed(b" " * (UNPACKED + 1))}, "unpacks to more than"),
    (LIVE | {"public_test_cases": "[1]"}, "no list of tests"),
    (LIVE | {"public_test_cases": '[{"testtype": "magic"}]', "private_test_cases": ""}, "unknown kind: magic"),
    (LIVE_FUNCTION | {"metadata": ""}, "no name of the function"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "reason"), BAD, ids=range(len(BAD)))
def test_a_malformed_record_is_refused_with_its_reason(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        made(record)
