"""Prose out of markup: HTML pages of manuals, and catalogues of translations (gettext's .po).

Regular expressions, not a parser: they read tens of megabytes a second, and a manual's pages are made by one program
and look alike. What is kept is what a person would read aloud: headings, paragraphs, list items. Menus, lines that are
nothing but a link, tables, code samples and scripts are left out. Pages of the wild web would need a real boilerplate
remover.
"""

import html
import re
from collections.abc import Iterator

_MAIN = re.compile(
    r'<(?:div[^>]*\bid="DisplayArea"|div[^>]*\brole="main"|main\b|article\b|body\b)[^>]*>', re.IGNORECASE
)
_MAIN_ORDER = ("displayarea", 'role="main"', "<main", "<article", "<body")
_DROPPED = re.compile(
    r"<(script|style|nav|header|footer|aside|pre|table|button|form|svg|math|head|noscript)\b.*?</\1\s*>|<!--.*?-->",
    re.DOTALL | re.IGNORECASE,
)
_HIDDEN = re.compile(
    r'<span\b(?=[^>]*\bhidden\b)(?![^>]*\bid="default)[^>]*>(?:[^<]|<span\b[^>]*>[^<]*</span>|<(?!/?span\b)[^>]*>)*</span>'
)
"""One variant per system and application, as LibreOffice's help has them; the default one is what a reader sees."""
_ONLY_LINK = re.compile(
    r"<(p|li|td|dt|dd)\b[^>]*>(?:\s|<a name[^>]*>\s*</a>|<span\b[^>]*>)*<a\b[^>]*\bhref[^>]*>"
    r"(?:(?!</?(?:a|p|li|td|dt|dd)\b).)*</a>(?:\s|</span>)*</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK = re.compile(r"</?(?:p|div|h[1-6]|li|ul|ol|dl|dt|dd|br|hr|section|blockquote|tr|td|th)\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_WHITE = re.compile(r"\s+")
_BREAK = "\x00"
_SENTENCE_END = re.compile(r"[.!?…:;)\]»”。！？：；）」』]$")
SHORTEST_LINE = 40
"""Bytes of UTF-8; a shorter line that ends like no sentence is a label, kept only as a page's first line."""


def html_to_prose(page: str) -> str:
    """The readable text of a page, one paragraph a line, its title first."""
    body = page[_main_start(page) :]
    body = _ONLY_LINK.sub(_BREAK, _HIDDEN.sub("", _DROPPED.sub(" ", body)))
    body = _TAG.sub("", _BLOCK.sub(_BREAK, _WHITE.sub(" ", body)))
    lines = [_WHITE.sub(" ", html.unescape(line)).strip() for line in body.split(_BREAK)]
    lines = [line for line in lines if line]
    kept = lines[:1] + [line for line in lines[1:] if _is_prose(line)]
    return "\n".join(kept) if len(kept) > 1 else ""


def _main_start(page: str) -> int:
    found = {match.group().lower(): match.end() for match in _MAIN.finditer(page)}
    for mark in _MAIN_ORDER:
        for tag, end in found.items():
            if mark in tag:
                return end
    return 0


def _is_prose(line: str) -> bool:
    return bool(_SENTENCE_END.search(line)) or len(line.encode()) >= SHORTEST_LINE


_ENTRY = re.compile(
    r'^msgid((?:\s*".*"\n)+)(?:msgid_plural(?:\s*".*"\n)+)?msgstr(?:\[0\])?((?:\s*".*"\n?)+)', re.MULTILINE
)
_QUOTED = re.compile(r'"(.*)"')
_ESCAPE = re.compile(r'\\(["\\nt])')
_ESCAPED = {'"': '"', "\\": "\\", "n": "\n", "t": " "}
MESSAGES_TOGETHER = 12
"""Translated messages in a row that make one document."""


def translations(catalogue: str) -> Iterator[str]:
    """Documents of the sentences that a gettext catalogue translates into, in its order; labels are left out."""
    together: list[str] = []
    for match in _ENTRY.finditer(catalogue):
        original, translated = (_message(match.group(group)) for group in (1, 2))
        if (
            not original
            or len(translated.encode()) < SHORTEST_LINE
            or translated == original
            or "%(" in translated
            or "{" in translated
        ):
            continue
        together.append(_WHITE.sub(" ", html.unescape(_TAG.sub("", translated))).strip())
        if len(together) == MESSAGES_TOGETHER:
            yield "\n".join(together)
            together = []
    if together:
        yield "\n".join(together)


def _message(quoted: str) -> str:
    joined = "".join(_QUOTED.findall(quoted))
    return _ESCAPE.sub(lambda match: _ESCAPED[match.group(1)], joined)
