"""Text comes out in one form, useless documents are named with their reason, files are cut where a reader would cut."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.corpus.markup import html_to_prose, translations
from sapience.corpus.normalizing import language_of, normalized, reason_to_drop, without_repeated_lines
from sapience.corpus.splitting import split_code, split_prose

PROSE = "The river rises in the hills and runs north for sixty miles before it meets the sea near the old harbour. "


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80), code=st.booleans())
def test_normalizing_is_idempotent_and_gives_the_composed_form(text: str, code: bool) -> None:
    once = normalized(text, keeps_blanks=code)
    assert normalized(once, keeps_blanks=code) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)


def test_code_keeps_its_indentation_and_prose_loses_its_runs_of_blanks() -> None:
    assert normalized("if x:\r\n\ty  =  1   \r\n", keeps_blanks=True) == "if x:\n\ty  =  1"
    assert normalized("a \u00a0 b\t c\n\n\n\nd\ufeff", keeps_blanks=False) == "a b c\n\nd"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE * 2, None),
        ("short", "too short"),
        (PROSE * 40, "too repetitive"),
        (
            "12.5 | 88.1 | 94.0 | 11.2 = 4 + 8 / 2; 77 88 99 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26",
            "mostly not letters",
        ),
        ("हम आज शाम को नदी के किनारे घूमने जाएंगे और फिर घर लौट आएंगे क्योंकि कल सुबह जल्दी उठना है।", None),
    ],
)
def test_reasons_to_drop(text: str, reason: str | None) -> None:
    assert reason_to_drop(text, "text", 50) == reason


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (PROSE, "en"),
        ("Der Fluss entspringt in den Hügeln und fließt nach Norden.", "de"),
        ("河流发源于山丘，向北流去，最后汇入大海。", "zh"),
    ],
)
def test_language_without_a_network(text: str, language: str) -> None:
    assert language_of(text)[0] == language


def test_lines_are_dropped_once_they_came_too_often() -> None:
    seen: dict[int, int] = {}
    pages = [without_repeated_lines(f"Page {n}\nAll rights reserved.", seen, 2) for n in range(4)]
    assert pages == ["Page 0\nAll rights reserved.", "Page 1\nAll rights reserved.", "Page 2", "Page 3"]


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.sampled_from(["def f():", "    return 1", "", "", "x = 'é中'", "y" * 90]), max_size=60),
    size=st.integers(20, 400),
)
def test_splitting_loses_nothing_but_line_ends(lines: list[str], size: int) -> None:
    text = "\n".join(lines).strip("\n")
    for pieces in (
        split_prose(text, size),
        [piece.partition("\n")[2] for piece in split_code(text, "a/b.py", size)],
    ):
        assert all(len(piece.encode()) <= size for piece in pieces)
        assert "".join("".join(pieces).split("\n")) == "".join(text.split("\n"))


def test_code_is_cut_at_definitions_and_keeps_its_path() -> None:
    function = 'def f{0}(x):\n    """Add."""\n\n    return x + {0}\n'
    pieces = split_code("\n\n".join(function.format(n) for n in range(9)), "pkg/mod.py", 200)
    assert len(pieces) == 3
    for piece in pieces:
        path, _, code = piece.partition("\n")
        assert path == "# pkg/mod.py" and code.startswith("def f")
        compile(code, "piece", "exec")


def test_html_becomes_what_a_reader_would_read_aloud() -> None:
    page = """<html><head><title>T</title><script>var x = "no";</script></head>
    <body><nav><p>Menu of the whole site, please.</p></nav>
    <div id="DisplayArea"><h1>Borders</h1><p>A &quot;border&quot; of a <span class="emph">page</span>
    surrounds it.</p><span hidden="true" id="MACx" class="MAC"><b>Preferences</b></span><p>Label</p>
    <ul><li><a href="x.html">A line that is nothing but a link to somewhere else.</a></li>
    <li>Choose <a href="y">one</a>.</li></ul><pre>code sample;</pre><table><tr><td>1.</td></tr></table></div>
    <footer><p>Debug information of the page.</p></footer></body></html>"""
    assert html_to_prose(page) == 'Borders\nA "border" of a page surrounds it.\nChoose one.'
    assert html_to_prose("<p>Only one line here.</p>") == ""


def test_translations_are_the_sentences_of_a_catalogue() -> None:
    catalogue = (
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
        'msgid "Save"\nmsgstr "Sichern"\n\n'
        'msgid "The file could not be written."\nmsgstr ""\n"Die Datei konnte nicht "\n'
        '"geschrieben werden, bitte \\"Nochmal\\" wählen."\n\n'
        'msgid "%(n)s files were found in the folder."\nmsgstr "%(n)s Dateien wurden in diesem Ordner gefunden."\n'
    )
    assert list(translations(catalogue)) == ['Die Datei konnte nicht geschrieben werden, bitte "Nochmal" wählen.']
