"""What one token stands for, in bytes, for the ways in which a tokenizer.json spells its vocabulary.

Byte-level vocabularies (ours, DeepSeek's, GPT-2's) write every byte as a printable character. SentencePiece's write a blank
as ▁ and a byte without an entry of its own as <0x0A>; WordPiece marks what goes on with a word by ##, and where there is
no decoder, every token is a word. Special tokens stand for their names. Not covered: decoders that look at more than one
token, and those that mark the end of a word (GPT-1, CLIP); they are refused.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from sapience.recipe.errors import UserError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KNOWN = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip", "WordPiece", "Sequence"}


@dataclass(frozen=True)
class Spelling:
    """How a vocabulary writes what its tokens stand for."""

    kind: Literal["bytes", "blanks", "words"]
    replaced: tuple[tuple[str, str], ...] = ()
    """Of `blanks`: what stands in a token, and what it means."""
    continued: str = ""
    """Of `words`: the mark of a token that goes on with a word."""


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
    """The spelling of a tokenizer.json, by its decoder (or by its pre-tokenizer, where it names no decoder).

    Raises UserError for a decoder that is not known.
    """
    parts = _parts(document.get("decoder"))
    unknown = sorted({part.get("type", "") for part in parts} - _KNOWN)
    if unknown:
        raise UserError(
            f"the tokenizer's decoder {', '.join(unknown)} is not known here: {', '.join(sorted(_KNOWN))} are"
        )
    for part in parts or _parts(document.get("pre_tokenizer")):
        if part.get("type") == "ByteLevel":
            return Spelling("bytes")
    replaced = [(part["pattern"]["String"], part["content"]) for part in parts if "String" in part.get("pattern", {})]
    replaced += [(part.get("replacement", "▁"), " ") for part in parts if part.get("type") == "Metaspace"]
    if replaced:
        return Spelling("blanks", tuple(replaced))
    marks = [part["prefix"] for part in parts if part.get("type") == "WordPiece"]
    return Spelling("words", continued=marks[0] if marks else "")


def _parts(part: Any) -> list[dict[str, Any]]:
    """A decoder or pre-tokenizer, or those that it is a sequence of."""
    if not isinstance(part, dict):
        return []
    inner: list[Any] = part.get("decoders") or part.get("pretokenizers") or []
    return [part, *(one for each in inner for one in _parts(each))]


def bytes_of(name: str, spelling: Spelling) -> bytes:
    """What a token of the vocabulary stands for inside a text."""
    if spelling.kind == "bytes":
        known = all(character in BYTE_OF for character in name)
        return bytes(BYTE_OF[character] for character in name) if known else name.encode()
    if spelling.kind == "blanks":
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        for written, meant in spelling.replaced:
            name = name.replace(written, meant)
        return name.encode()
    mark = spelling.continued
    return name.removeprefix(mark).encode() if mark and name.startswith(mark) else f" {name}".encode()
