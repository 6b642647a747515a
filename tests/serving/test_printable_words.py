"""No byte that a model writes moves a cursor or ends a program, on a screen or in JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sapience.serving.printable import json_line, printable

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))


def test_escapes_become_visible_and_lines_stay() -> None:
    assert printable("a\x1b[31m\x07b\n\tc\r\x00\x7f\x9b2J é 你") == "a␛[31m␇b\n\tc␍␀␡\ufffd2J é 你"


@given(ANY_TEXT, ANY_TEXT)
def test_what_is_printed_can_be_encoded_and_controls_nothing(one: str, other: str) -> None:
    shown = printable(one)
    shown.encode("utf-8")
    assert all(letter in "\n\t" or not (letter < " " or "\x7f" <= letter < "\xa0") for letter in shown)
    assert printable(one + other) == shown + printable(other)


@given(ANY_TEXT)
def test_json_loses_nothing_and_is_safe_too(text: str) -> None:
    line = json_line({"answer": text, text: ["\\", text]})
    assert json.loads(line) == {"answer": text, text: ["\\", text]}
    assert printable(line) == line and "\n" not in line
