"""Where the program stands in an answer, and whether an answer is in the language it should be in."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.rewards.language import language_consistent
from sapience.rewards.source_code import fenced_source, without_fenced_blocks


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("def f(): pass", None),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("``` Python \nx = 1\n```  \nDone.", "x = 1\n"),
        ("```py\nx = 1\n```", "x = 1\n"),
        ("First:\n```python\nx = 1\n```\nBetter:\n```python\nx = 2\n```\n", "x = 2\n"),
        ("```python\nx = 1\n```\n```text\nout\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n"),
        ("```python\nx = 1", None),
        ("```bash\nls\n```", None),
        ("```python\n```", ""),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\nx = 1\n```python\ny\n```", "x = 1\n```python\ny\n"),
        ("```python\r\nx = 1\r\n```", "x = 1\r\n"),
        ("text ```python\nx\n```", None),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("`` `python\nx\n```\ny\n```", "y\n"),
    ],
)
def test_the_last_complete_block_of_python_counts(text: str, source: str | None) -> None:
    assert fenced_source(text) == source


@given(st.text(alphabet="`p\n x"))
def test_blocks_and_what_is_around_them(text: str) -> None:
    source = fenced_source(text)
    assert source is None or source in text
    assert len(without_fenced_blocks(text)) <= len(text)


@given(st.text(alphabet="abc =\n", max_size=40))
def test_a_fenced_program_comes_back_unchanged(source: str) -> None:
    assert fenced_source(f"Here:\n```python\n{source}\n```\n") == source + "\n"


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("", True, True),
        ("42 = 6 * 7 !?", True, True),
        ("The answer is 42.", True, False),
        ("答案是四十二。", False, True),
        ("我们用 Python 写一个函数 f，返回 x 加一。", False, True),
        ("We call it f. 我们把它叫做 f，因为题目这样要求。", False, True),
        ("The character 好 means good, as every reader of this sentence knows.", True, False),
        ("Set $x$ so:\n```python\n# 这里是一个很长的中文注释\nx = 1\n```\nThat is all.", True, False),
        ("代入\n```python\nthis_is_a_long_name = another_long_name + yet_another_name\n```\n即得。", False, True),
        (r"设 $\alpha + \beta = \gamma \cdot velocity$，则 \(energy = mass\) 得证。", False, True),
        (r"\[ \text{long} \alpha \beta \gamma \]", True, True),
        ("`变量名称` is the variable", True, False),
    ],
)
def test_the_language_of_the_prose_counts(text: str, english: bool, chinese: bool) -> None:
    assert language_consistent(text, "en") == english
    assert language_consistent(text, "zh") == chinese


@pytest.mark.parametrize("piece", [r"\(", r"\[ ", "$", "$$a", "`a", "```\n", "\\a", "好$"])
def test_no_text_takes_long(piece: str) -> None:
    begun = time.process_time()
    language_consistent(piece * 40_000, "en")
    fenced_source(piece * 40_000)
    assert time.process_time() - begun < 2.0
