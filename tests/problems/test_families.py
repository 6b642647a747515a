"""What holds for every family: splits never mix, the same call gives the same problems, answers are the right ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import add, ge, gt, le, lt, mul, sub
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.problems.families import FAMILIES, OWN_FAMILIES, generate
from sapience.problems.plain import SEPARATOR, few_shot_prompt, plain_document
from sapience.problems.problem import ANSWER_MARK, Problem, is_test, split_of
from sapience.problems.procedural import PREFIX, gym_score
from sapience.problems.scoring import score
from sapience.recipe.errors import UserError

CODE = ("codefn", "codelist", "codevalues", "codestr")


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_never_mix_and_questions_are_different(family: str) -> None:
    train = [p.question for seed in (0, 1) for p in generate(family, "train", 200, seed)]
    validation = {p.question for p in generate(family, "validation", 40, 2)}
    test = [p.question for p in generate(family, "test", 40, 0)]
    assert not set(train) & set(test) and not set(train) & validation and not validation & set(test)
    assert all(is_test(question) for question in test) and not any(map(is_test, train))
    assert len(set(test)) == 40 and len(set(train[:200])) == 200
    assert train[:200] != train[200:]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_test_split_has_150_questions(family: str) -> None:
    assert len({p.identity for p in generate(family, "test", 150, 5)}) == 150


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_problems_and_longer_lists_begin_alike(family: str) -> None:
    assert generate(family, "train", 30, 3) == generate(family, "train", 60, 3)[:30]


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_are_short_and_forms_are_consistent(family: str) -> None:
    for problem in generate(family, "train", 100, 4):
        assert problem.family == family
        assert len(problem.question) <= 150
        assert len(plain_document(problem, worked=True)) <= 200
        assert SEPARATOR not in plain_document(problem, worked=True)
        assert score(problem, problem.answer) and score(problem, f" {problem.worked}{SEPARATOR}Problem: …")
        if problem.domain != "code":
            assert ANSWER_MARK not in problem.answer
            assert problem.worked == problem.answer or problem.worked.endswith(ANSWER_MARK + problem.answer)


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _oracle(problem: Problem) -> str:
    """The answer worked out again from the question's words alone."""
    question = problem.question
    items = question.rstrip("?.").split(": ")[-1].split()
    match problem.family:
        case "maxn":
            return str(max(_numbers(question)))
        case "minn":
            return str(min(_numbers(question)))
        case "secondn":
            return str(sorted(_numbers(question))[-2])
        case "thirdn":
            return str(sorted(_numbers(question))[-3])
        case "sortn":
            return ", ".join(map(str, sorted(_numbers(question))))
        case "mul1" | "add" | "chain":
            return str(eval(question.removeprefix("What is ").rstrip("?")))
        case "countl":
            return str(items.count(question.split()[2]))
        case "lookup":
            asked = question.split()[-2]
            return dict(re.findall(r"(\w+) has (\d+)", question))[asked]
        case "item":
            name = question.split()[4]
            return items[{"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}[name]]
        case "after":
            _, _, side, item = question.split(" in: ")[0].split()
            return items[items.index(item) + (1 if side == "after" else -1)]
        case "reverse":
            return " ".join(items[::-1])
        case "copy":
            return " ".join(items)
        case "without":
            dropped = question.split(" from: ")[0].split()[-1]
            return " ".join(item for item in items if item != dropped)
    raise AssertionError(problem.family)


@pytest.mark.parametrize("family", [name for name in OWN_FAMILIES if name not in (*CODE, "numword", "symbols")])
def test_answers_and_steps_are_right(family: str) -> None:
    for problem in generate(family, "train", 300, 6):
        assert problem.answer == _oracle(problem), problem
        if family in ("mul1", "add", "chain"):
            for equation in problem.worked.split(", "):
                left, right = equation.split(" = ")
                assert eval(left) == int(right), problem


def test_conditions_in_symbols_mean_what_the_words_say() -> None:
    steps: dict[str, Callable[[int, int], int]] = {"plus": add, "minus": sub, "times": mul}
    relations: dict[str, Callable[[int, int], bool]] = {"above": gt, "below": lt, "at least": ge, "at most": le}
    seen = set()
    for problem in generate("symbols", "train", 400, 9):
        words = re.fullmatch(r"Write in symbols: x (\w+) (\d+), (\w+) (\d+), is ([a-z ]+) (\d+)\.", problem.question)
        assert words is not None
        first, one, second, other, relation, limit = words.groups()
        seen.add((first, second, relation))
        for x in range(-60, 120):
            value = steps[second](steps[first](x, int(one)), int(other))
            assert eval(problem.answer, {"x": x}) == relations[relation](value, int(limit)), (problem, x)
        assert not problem.steps
    assert len(seen) == 3 * 3 * 4


@pytest.mark.parametrize("family", CODE)
def test_canonical_code_passes_its_hidden_tests(family: str) -> None:
    for problem in generate(family, "train", 400, 7):
        namespace: dict[str, object] = {}
        exec(problem.answer, namespace)
        function = namespace[problem.entry_point]
        assert callable(function) and len(problem.tests) >= 6
        for test in problem.tests:
            assert function(*test.args) == test.returns, (problem, test)
        assert len({repr(test.returns) for test in problem.tests}) > 1, problem  # no constant may pass


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith(PREFIX)])
def test_reasoning_gym_scores_its_own_answers_and_rejects_others(family: str) -> None:
    for problem in generate(family, "test", 20, 8):
        assert gym_score(problem, problem.answer) == 1.0, problem
        assert gym_score(problem, "surely wrong") < 1.0


def test_unknown_and_exhausted_families_are_user_errors() -> None:
    with pytest.raises(UserError, match="choose from maxn"):
        generate("nonsense", "train", 1, 0)
    with pytest.raises(UserError, match=r"mul1.*only about 1\d\d different"):
        generate("mul1", "test", 5000, 0)


@given(st.text(min_size=1))
def test_white_space_does_not_change_the_split(question: str) -> None:
    assert split_of(question) == split_of(f"  {question}\n") == split_of(question.replace(" ", "  "))


def test_split_shares() -> None:
    rng = Random(0)
    sides = [split_of(str(rng.random())) for _ in range(20_000)]
    assert abs(sides.count("test") / 20_000 - 0.10) < 0.01
    assert abs(sides.count("validation") / 20_000 - 0.05) < 0.01


@settings(max_examples=50)
@given(st.sampled_from(list(OWN_FAMILIES)), st.integers(0, 2**31))
def test_wrong_answers_do_not_score(family: str, seed: int) -> None:
    problem, other = generate(family, "train", 2, seed)
    if problem.answer != other.answer:
        assert not score(problem, other.worked)
    assert not score(problem, "") and not score(problem, problem.answer + " 7")


def test_few_shot_prompt_ends_where_the_answer_begins() -> None:
    shots = generate("mul1", "train", 2, 0)
    problem = generate("mul1", "test", 1, 0)[0]
    prompt = few_shot_prompt(shots, problem, worked=True)
    assert prompt.endswith(f"Problem: {problem.question}\nAnswer:")
    assert prompt + " " + problem.worked == SEPARATOR.join(plain_document(p, True) for p in (*shots, problem))


def test_numbers_compare_by_value() -> None:
    problem = Problem("user", "math", "?", "12", "12")
    assert score(problem, "12.0") and score(problem, " 12.") and score(problem, "3 * 4 = 12")
    assert not score(problem, "nan") and not score(problem, "112") and not score(problem, "12 = 13")
