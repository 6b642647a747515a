"""The published solutions of HumanEval and MBPP are right, and what a small change breaks is not.

What a change breaks is settled natively: the changed function is called with the same arguments in a process of its own,
and its answers compared as Python compares.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from available_tiers import sandbox_of
from published_problems import published

from sapience.problems.problem import Problem, TestCase
from sapience.problems.user_files import load_problems
from sapience.recipe.problem_sets import ProblemFileSection
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits

LIMITS = Limits(cpu_seconds=8.0, wall_seconds=60.0, memory_mb=512)
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.Is: ast.IsNot,
}  # fmt: skip
NATIVE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (8, 9))
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
source, name, cases = eval(sys.stdin.read())
def close(a, b, tolerance):
    if type(b) in (list, tuple) and type(a) is type(b):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b))
    number = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return a == b or (number and abs(a - b) <= max(tolerance, 1e-9) * max(1, abs(b)))
sys.setrecursionlimit(1000)
module = {"__name__": "submission"}
exec(source, module)
print(all(close(module[name](*args), returns, tolerance or 0) for args, returns, tolerance in cases))
"""


def problems_of(file: str) -> list[Problem]:
    loaded = load_problems(ProblemFileSection(path=str(published(file))))
    return [problem for problem in loaded.problems if problem.entry_point]


def changed(source: str, count: int, rng: Random) -> list[str]:
    """`count` variants of a program, each with one operator swapped, one number moved or one answer given up."""
    places = [
        (index, node)
        for index, node in enumerate(ast.walk(ast.parse(source)))
        if type(node) in SWAPS
        or (isinstance(node, ast.Constant) and type(node.value) is int)
        or isinstance(node, ast.Return)
    ]
    variants = []
    for index, _ in rng.sample(places, min(count, len(places))):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[index]
        if isinstance(node, ast.Constant):
            node.value = int(node.value) + 1  # type: ignore[arg-type]
        elif isinstance(node, ast.Return):
            node.value = ast.Constant(None)
        else:
            swapped = SWAPS[type(node)]
            for parent in ast.walk(tree):
                for name, value in ast.iter_fields(parent):
                    if value is node:
                        setattr(parent, name, swapped())
                    elif isinstance(value, list) and any(item is node for item in value):
                        value[[item is node for item in value].index(True)] = swapped()
        variants.append(ast.unparse(ast.fix_missing_locations(tree)))
    return variants


def natively_right(problem: Problem, source: str) -> bool:
    cases = [(list(test.args), test.returns, test.tolerance) for test in problem.tests if isinstance(test, TestCase)]
    try:
        told = subprocess.run(
            [sys.executable, "-I", "-S", "-c", NATIVE], input=repr((source, problem.entry_point, cases)), capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return told.returncode == 0 and told.stdout.strip().endswith("True")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("file", "variants"), [("humaneval.jsonl.zst", 3), ("mbpp.jsonl.zst", 1)])
def test_solutions_are_right_and_broken_variants_are_not(file: str, variants: int) -> None:
    problems = problems_of(file)
    rng = Random(7)
    mutants = [(problem, source) for problem in problems for source in changed(problem.answer, variants, rng)]
    with CodeJudge(sandbox_of("bubblewrap"), 4, LIMITS) as judge:
        canonical = judge.judge_many([(problem, problem.answer) for problem in problems])
        verdicts = judge.judge_many(mutants)
    refused = {p.question[:60]: v for p, v in zip(problems, canonical, strict=True) if not v.right}
    assert not refused, refused
    with ThreadPoolExecutor(2) as pool:
        native = list(pool.map(lambda pair: natively_right(*pair), mutants))
    accepted = [
        (problem.entry_point, source)
        for (problem, source), verdict, right in zip(mutants, verdicts, native, strict=True)
        if verdict.right and not right
    ]
    assert not accepted, accepted[:3]
    kinds: Counter[Any] = Counter(verdict.kind for verdict in verdicts)
    assert kinds["infra_error"] == 0
    print(json.dumps({"file": file, "canonical": len(problems), "mutants": len(mutants), "verdicts": kinds}))
