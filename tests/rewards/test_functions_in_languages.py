"""Functions in every language but Python: values of each kind there and back, and each kind of verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from available_tiers import left_running, sandbox_of
from hypothesis import given
from hypothesis import strategies as st

from sapience.problems.problem import Language, Problem, TestCase
from sapience.rewards.code import CodeJudge
from sapience.rewards.comparison import same
from sapience.rewards.functions import as_input, fitted, read_answer
from sapience.rewards.limits import Limits
from sapience.rewards.outcome import Answer, Failure
from sapience.rewards.toolchains import TOOLCHAINS, missing

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=30.0, memory_mb=256, output_bytes=20_000)
EVERYTHING = ({"a": [1, 2], "bc": []}, [(1, 2.5), (-3, 0.25)], 'snow ☃ "\\\n\t', True, [[1], [], [2, 3]])
"""A dictionary, pairs, a text, a truth value, a list of lists."""

ECHO: dict[Language, str] = {
    "cpp": """
#include <map>
#include <string>
#include <tuple>
#include <vector>
using namespace std;
tuple<map<string, vector<int>>, vector<pair<long long, double>>, string, bool, vector<vector<int>>> echo(
    const map<string, vector<int>>& a, vector<pair<long long, double>> b, const string& c, bool d, vector<vector<int>>& e) {
  cout << "debug" << endl;
  return {a, b, c, d, e};
}
int main() { return 3; }""",
    "java": """
import java.util.*;
class Solution {
  public List<Object> echo(Map<String, List<Integer>> a, double[][] b, String c, boolean d, List<List<Integer>> e) {
    System.out.println("debug");
    List<Object> pairs = new ArrayList<>();
    for (double[] pair : b) pairs.add(List.of((long) pair[0], pair[1]));
    return Arrays.asList(a, pairs, c, d, e);
  }
}""",
    "go": """
import "fmt"
type pair struct { first int; second float64 }
func echo(a map[string][]int, b []pair, c string, d bool, e [][]int) (map[string][]int, []pair, string, bool, [][]int, error) {
  fmt.Println("debug")
  return a, b, c, d, e, nil
}
func main() { panic("not this one") }""",
    "rust": """
use std::collections::HashMap;
fn echo(a: HashMap<String, Vec<i32>>, b: &[(i64, f64)], c: &str, d: bool, e: &mut Vec<Vec<i32>>)
    -> (HashMap<String, Vec<i32>>, Vec<(i64, f64)>, String, bool, Vec<Vec<i32>>) {
  println!("debug");
  (a, b.to_vec(), c.to_string(), d, e.clone())
}
fn main() {}""",
    "javascript": "const echo = (...all) => { console.log('debug'); return all; }",
}
SORTED: dict[Language, str] = {
    "c": """
#include <stdlib.h>
#include <string.h>
int* sorted(const int* values, size_t count, int* returned) {
  int* made = malloc(sizeof(int) * count);
  memcpy(made, values, sizeof(int) * count);
  for (size_t i = 0; i < count; i++) for (size_t j = i + 1; j < count; j++)
    if (made[j] < made[i]) { int held = made[i]; made[i] = made[j]; made[j] = held; }
  *returned = count;
  return made;
}
int main(void) { return 3; }""",
    "cpp": """
class Solution { public: vector<int> sorted(vector<int>& values) { sort(values.begin(), values.end()); return values; } };""",
    "java": """
import java.util.*;
public class Answer { static int[] sorted(int[] values) { Arrays.sort(values); return values; } }""",
    "go": """package answer
import "sort"
func sorted(values []int) []int { sort.Ints(values); return values }""",
    "rust": "fn sorted(mut values: Vec<i64>) -> Vec<i64> { values.sort(); values }",
    "javascript": "function sorted(values) { return values.sort((a, b) => a - b); }",
    "bash": "sorted() { printf '%s\\n' $1 | sort -n | tr '\\n' ' '; }",
}
SORTED["cpp"] = "#include <algorithm>\n#include <vector>\nusing namespace std;" + SORTED["cpp"]
SORT_CASES = (TestCase(([3, -1, 2],), [-1, 2, 3]), TestCase(([5],), [5]), TestCase(([10, 9],), [9, 10]))
UNSORTED: dict[Language, str] = {
    "c": "int* sorted(int* values, int count, int* returned) { *returned = count; return values; }",
    "cpp": "#include <vector>\nstd::vector<int> sorted(const std::vector<int> values) { return values; }",
    "java": "class A { int[] sorted(int[] values) { return values; } }",
    "go": "func sorted(values []int) []int { return values }",
    "rust": "fn sorted(values: &[i64]) -> &[i64] { values }",
    "javascript": "const sorted = values => values;",
    "bash": "sorted() { echo $1; }",
}
FAILING: dict[Language, str] = {
    "c": "#include <stdlib.h>\nint* sorted(int* values, int count, int* returned) { abort(); }",
    "cpp": "#include <vector>\nstd::vector<int> sorted(std::vector<int> values) { throw 1; }",
    "java": 'class A { int[] sorted(int[] values) { throw new RuntimeException("no"); } }',
    "go": 'func sorted(values []int) []int { panic("no") }',
    "rust": 'fn sorted(values: Vec<i64>) -> Vec<i64> { panic!("no") }',
    "javascript": "const sorted = values => { throw new Error('no'); };",
    "bash": "sorted() { return 3; }",
}
ENDLESS: dict[Language, str] = {
    "c": "int* sorted(int* values, int count, int* returned) { volatile int x = 1; while (x) x = 1; return values; }",
    "cpp": "#include <vector>\nstd::vector<int> sorted(std::vector<int> v) { volatile int x = 1; while (x) x = 1; return v; }",
    "java": "class A { int[] sorted(int[] values) { long x = 0; while (true) x++; } }",
    "go": "func sorted(values []int) []int { for { } }",
    "rust": "fn sorted(values: Vec<i64>) -> Vec<i64> { let mut x = 0u64; loop { x = std::hint::black_box(x + 1); } }",
    "javascript": "const sorted = values => { for (;;) {} };",
    "bash": "sorted() { while :; do :; done; }",
}
LYING: dict[Language, str] = {
    "c": """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) void before(void) { puts("ok"); puts("[0]"); fflush(stdout); _Exit(0); }
int* sorted(int* values, int count, int* returned) { return 0; }""",
    "cpp": """
#include <bits/stdc++.h>
struct Lie { Lie() { std::cout << "true\\n" << std::flush; std::_Exit(0); } } lie;
std::vector<int> sorted(std::vector<int> values) { return {}; }""",
    "java": 'class A { int[] sorted(int[] values) { System.out.println("true"); System.exit(0); return null; } }',
    "go": 'import ("fmt"; "os")\nfunc sorted(values []int) []int { fmt.Println("true"); os.Exit(0); return nil }',
    "rust": 'fn sorted(_: Vec<i64>) -> Vec<i64> { println!("true"); std::process::exit(0) }',
    "javascript": "JSON.stringify = () => 'true'; const sorted = () => { console.log('{}'); process.exit(0); };",
    "bash": "sorted() { echo ok; exit 0; }",
}


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    with CodeJudge(sandbox_of("bubblewrap"), 2, LIMITS) as made:
        yield made


def asked(language: Language, name: str, *cases: TestCase) -> Problem:
    if missing(language):
        pytest.skip(f"{', '.join(missing(language))} is not installed: {TOOLCHAINS[language].remedy}")
    return Problem("x", "code", name, "", "", entry_point=name, tests=cases, language=language)


@pytest.mark.parametrize("language", ECHO)
def test_values_of_every_kind_arrive_and_return(judge: CodeJudge, language: Language) -> None:
    same_again = TestCase(EVERYTHING, EVERYTHING)
    changed = TestCase(EVERYTHING, (*EVERYTHING[:-1], [[1], [], [2, 4]]))
    verdict = judge.judge(asked(language, "echo", same_again, changed), ECHO[language])
    assert (verdict.kind, verdict.passed) == ("wrong", 1), verdict


@pytest.mark.parametrize("language", SORTED)
def test_a_right_function_is_right(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(asked(language, "sorted", *SORT_CASES), SORTED[language])
    assert verdict.right, verdict


@pytest.mark.parametrize("language", UNSORTED)
def test_a_wrong_one_is_wrong(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(asked(language, "sorted", *SORT_CASES), UNSORTED[language])
    assert (verdict.kind, verdict.passed) == ("wrong", 1), verdict


@pytest.mark.parametrize("language", FAILING)
def test_one_that_fails_is_told_so(judge: CodeJudge, language: Language) -> None:
    assert judge.judge(asked(language, "sorted", *SORT_CASES[:1]), FAILING[language]).kind == "runtime_error"


@pytest.mark.parametrize("language", ENDLESS)
def test_one_without_an_end_is_out_of_time(judge: CodeJudge, language: Language) -> None:
    assert judge.judge(asked(language, "sorted", *SORT_CASES[:1]), ENDLESS[language]).kind == "timeout"


@pytest.mark.parametrize("language", LYING)
def test_spoof_of_an_answer(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(asked(language, "sorted", *SORT_CASES), LYING[language])
    assert verdict.kind in ("wrong", "runtime_error") and verdict.passed == 0, verdict


@pytest.mark.parametrize("language", SORTED)
def test_a_function_that_is_not_there(judge: CodeJudge, language: Language) -> None:
    verdict = judge.judge(asked(language, "ordered", *SORT_CASES[:1]), SORTED[language])
    assert verdict.kind in ("compile_error", "runtime_error"), verdict


@pytest.mark.parametrize(
    ("language", "source", "cases"),
    [
        ("c", "#include <stdbool.h>\nbool f(const char* a, char b, double c) { return a[0] == b && c > 1.5; }",
         [TestCase(("xyz", "x", 2.0), True), TestCase(("xyz", "y", 2.0), False)]),
        ("c", "int f(char** words, int count, long k) { int n = 0; while (count--) n += words[count][0]; return n + k; }",
         [TestCase((["a", "b"], 1), 196)]),
        ("c", '#include <stdlib.h>\n#include <string.h>\nchar* f(char* a) { return strcat(strcpy(malloc(50), a), "\\"☃"); }\n',
         [TestCase(("x",), 'x"☃')]),
        ("c", "int f(int a) { return a > 0; }", [TestCase((3,), True), TestCase((-3,), False)]),
        ("cpp", ("#include <bits/stdc++.h>\nstd::optional<char> f(std::optional<int> a, std::set<std::string> b)"
          " { if (!a || b.empty()) return {}; return b.begin()->at(*a); }"),
         [TestCase((None, {"x"}), None), TestCase((1, {"xy", "z"}), "y")]),
        ("cpp", ("#define int long long\n#include <bits/stdc++.h>\nstd::unordered_map<int, double> f(int a)"
          " { return {{a, 0.1}}; }"), [TestCase((1 << 40,), {1 << 40: 0.1})]),
        ("cpp", ("#include <set>\n#include <vector>\nstd::set<int> f(std::vector<bool> a, std::array<int, 2> b)"
          " { return {b[a[0]], 7}; }"), [TestCase(([True], (1, 2)), {2, 7})]),
        ("java", ("import java.util.*;\nimport java.math.*;\nclass S { "
          "Optional<Character> f(char a, Set<Long> b, BigInteger c) "
          "{ return b.contains(c.longValue()) ? Optional.of(a) : Optional.empty(); } }"),
         [TestCase(("q", {5, 6}, 6), "q"), TestCase(("q", {5}, 6), None)]),
        ("java", ("import java.util.*;\nclass S { static Map<Integer, double[]> f(TreeMap<Integer, Double> a, Object b)"
          " { return Map.of(a.firstKey(), new double[] {a.get(a.firstKey()), ((Number) b).doubleValue()}); } }"),
         [TestCase(({3: 0.5, 2: 0.25}, 7), {2: [0.25, 7.0]})]),
        ("java", ("import java.util.*;\nclass S { Integer[] f(List<? extends Number> a, String... b)"
          " { return a.stream().map(Number::intValue).toArray(Integer[]::new); } }"), [TestCase(([1, 2], ["x"]), [1, 2])]),
        ("go", ("func f(a rune, b []byte, c *int, d any, e map[int]float64) (rune, int) "
          "{ if c == nil { return a, len(b) + d.(int) }; return a, int(e[*c] * 2) }"),
         [TestCase(("q", [1, 2], None, 3, {}), (113, 5)), TestCase(("ü", [], 4, "x", {4: 1.5}), (252, 3))]),
        ("go", 'import "errors"\nfunc f(a int) (int, error) { if a < 0 { return 0, errors.New("negative") }; return a, nil }',
         [TestCase((5,), 5)]),
        ("rust", ("use std::collections::*;\nfn f(a: Option<char>, b: BTreeMap<i32, Vec<f32>>, c: &HashSet<String>)"
          " -> Option<(char, f32, usize)> { a.map(|x| (x, b[&2][0], c.len())) }"),
         [TestCase((None, {}, set()), None), TestCase(("é", {2: [0.5], 3: []}, {"x", "y"}), ("é", 0.5, 2))]),
        ("rust", ("fn f<'a>(a: &'a str, b: [u8; 2]) -> Result<Vec<&'a str>, String>"
          " { Ok(a.split(' ').take(b[1] as usize).collect()) }"), [TestCase(("x yz w", [0, 2]), ["x", "yz"])]),
        ("javascript", "const f = (a, b) => new Map([[a, new Set(b)], ['n', 12n]]);",
         [TestCase((1, ["x"]), {1: {"x"}, "n": 12}, 0.0)]),
        ("javascript", "function f(a, b) { return a + b; }",
         [TestCase((2, 3), 5), TestCase(("a", "b"), "ab"), TestCase(([1], None), "1null"), TestCase((0.5, 1.5), 2.0)]),
        ("bash", 'f() { echo "$(( $1 * 2 ))"; }', [TestCase((21,), 42)]),
        ("bash", 'f() { [ "$1" = "$2" ] && echo true || echo false; }',
         [TestCase(("a b\n$x", "a b\n$x"), True), TestCase(("a", "b"), False)]),
        ("bash", 'f() { while IFS=, read -r k v; do echo "$k,$((v + $2))"; done <<< "$1"; }',
         [TestCase(({"x": 1, "y": 2}, 10), {"x": 11, "y": 12})]),
        ("bash", 'f() { while read -r a b; do echo "$b $a"; done <<< "$1"; }',
         [TestCase(([[1, 2], [3, 4]],), [[2, 1], [4, 3]])]),
        ("bash", "f() { awk \"BEGIN { print $1 / 3 }\"; }", [TestCase((1.0,), 0.333333, 1e-5)]),
    ],
)  # fmt: skip
def test_types_of_the_language(judge: CodeJudge, language: Language, source: str, cases: list[TestCase]) -> None:
    verdict = judge.judge(asked(language, "f", *cases), source)
    assert verdict.right, verdict


@pytest.mark.parametrize(
    ("language", "source", "case"),
    [
        ("cpp", "int f(int a) { return 0; }", TestCase((1 << 40,), 0)),
        ("cpp", "int f(int a) { return 0; }", TestCase((1, 2), 0)),
        ("cpp", "int f(int a, int b) { return 0; }", TestCase((1,), 0)),
        ("cpp", "double f(int a) { return 0.0 / (a - 1); }", TestCase((1,), 0.0)),
        ("c", "int f(int a) { return 0; }", TestCase(("x",), 0)),
        ("java", "class S { int f(int a) { return 0; } }", TestCase((0.5,), 0)),
        ("java", "class S { Object f(int a) { return this; } }", TestCase((1,), 0)),
        ("go", "func f(a int8) int { return 0 }", TestCase((200,), 0)),
        ("go", "func f(a chan int) int { return 0 }", TestCase((200,), 0)),
        ("rust", "fn f(a: u8) -> i32 { 0 }", TestCase((-1,), 0)),
        ("rust", "fn f(a: f64) -> f64 { f64::NAN }", TestCase((1.0,), 0.0)),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_program(
    judge: CodeJudge, language: Language, source: str, case: TestCase
) -> None:
    verdict = judge.judge(asked(language, "f", case), source)
    assert verdict.kind == "runtime_error" and verdict.passed == 0, verdict


@pytest.mark.parametrize(
    ("language", "entry_point", "case", "reason"),
    [
        ("rust", "f()", TestCase((1,), 1), "no function's name"),
        ("cpp", "f", TestCase(({(1, 2): 3},), 1), "another language than Python"),
        ("go", "f", TestCase((1,), {None: 3}), "another language than Python"),
        ("bash", "f", TestCase(("a\0b",), 1), "byte of zero"),
        ("bash", "f", TestCase(([[[1]]],), 1), "lists of lists of lists"),
    ],
)
def test_a_test_that_the_language_cannot_have_is_refused(
    judge: CodeJudge, language: Language, entry_point: str, case: TestCase, reason: str
) -> None:
    problem = Problem("x", "code", "f", "", "", entry_point=entry_point, tests=(case,), language=language)
    with pytest.raises(ValueError, match=reason):
        judge.judge(problem, "")


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers(), inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.sets(st.integers() | st.tuples(st.integers(), st.text()), max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_a_value_that_returns_as_it_went_is_the_expected_one(value: Any) -> None:
    returned = read_answer("cpp", Answer(b"debug\n" + as_input("cpp", [value])))
    assert isinstance(returned, Answer)
    assert same(fitted("cpp", returned.value, [value]), [value])


@given(PLAIN, PLAIN)
def test_two_values_that_python_tells_apart_are_not_taken_for_each_other(value: Any, other: Any) -> None:
    """But for what JSON has one kind of: numbers, and lists, tuples and sets."""
    returned = read_answer("cpp", Answer(as_input("cpp", [value])))
    assert isinstance(returned, Answer)
    if same(fitted("cpp", returned.value[0], other), other):
        assert as_input("cpp", [value]).replace(b".0", b"") == as_input("cpp", [other]).replace(b".0", b"")


def test_output_without_an_answer_is_no_answer() -> None:
    for written in (b"", b"\n", b"debug", b"[1", b"1\ndebug\n"):
        assert isinstance(read_answer("rust", Answer(written)), Failure)


def test_nothing_is_left_running_after_all_that(judge: CodeJudge) -> None:
    assert not left_running()
