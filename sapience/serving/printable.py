"""A model's words made fit for a terminal: what would move the cursor, ring, recolour or rename the window becomes visible.

A model writes bytes, and nothing keeps it from spelling an escape sequence. Line breaks and tabs stay; the other control
characters are replaced by their pictures (␛ for escape). In JSON they are written as escapes, which loses nothing.
"""

import json
import re
from typing import Any

_PICTURES: dict[int, int] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}
_LEFT_BY_JSON = re.compile("[\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, which no output can encode."""


def printable(text: str) -> str:
    """The text with every control character replaced by one that is shown; character by character, so that a streamed
    text is the same as a whole one."""
    return text.translate(_PICTURES)


def json_line(record: Any) -> str:
    """One line of JSON, readable in every language, that a terminal does not act on and any program reads back."""
    text = json.dumps(record, ensure_ascii=False)
    return _LEFT_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
