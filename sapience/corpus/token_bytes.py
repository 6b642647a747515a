"""What one token stands for, in bytes, for the ways in which a tokenizer.json spells its vocabulary.

Byte-level vocabularies (ours, DeepSeek's, GPT-2's) write every byte as a printable character. SentencePiece's write a blank
as ▁ and a byte without an entry of its own as <0x0A>; WordPiece marks what goes on with a word by ##. Special tokens
stand for their names.
"""

import re
from typing import Any, Literal

Spelling = Literal["bytes", "blanks", "words", "plain"]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {value: chr(value) for value in printable}
    for extra, value in enumerate(value for value in range(256) if value not in table):
        table[value] = chr(256 + extra)
    return table


CHARACTER_OF = _byte_characters()
BYTE_OF = {character: value for value, character in CHARACTER_OF.items()}


def spelling_of(document: dict[str, Any]) -> Spelling:
    """How a tokenizer.json spells its tokens, by its decoder (or by its pre-tokenizer, where it names no decoder)."""
    for part in ("decoder", "pre_tokenizer"):
        kinds = set(_kinds(document.get(part)))
        if "ByteLevel" in kinds:
            return "bytes"
        if kinds & {"Metaspace", "ByteFallback"}:
            return "blanks"
        if "WordPiece" in kinds:
            return "words"
    return "plain"


def _kinds(part: Any) -> list[str]:
    """Types of a decoder or pre-tokenizer and of those it is a sequence of."""
    if not isinstance(part, dict):
        return []
    parts: list[Any] = part.get("decoders") or part.get("pretokenizers") or []
    return [part.get("type", ""), *(kind for one in parts for kind in _kinds(one))]


def bytes_of(name: str, spelling: Spelling) -> bytes:
    """What a token of the vocabulary stands for inside a text."""
    if spelling == "bytes" and all(character in BYTE_OF for character in name):
        return bytes(BYTE_OF[character] for character in name)
    if spelling == "blanks":
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        return name.replace("▁", " ").encode("utf-8")
    if spelling == "words":
        return name.removeprefix("##").encode("utf-8") if name.startswith("##") else f" {name}".encode()
    return name.encode("utf-8")
