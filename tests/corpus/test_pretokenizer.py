"""The one pattern of tiktoken cuts text exactly where the three splits of tokenizer.json cut it."""

import unicodedata

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from sapience.corpus.pretokenizer import Digits, sequential_patterns, single_pattern

MIXED = st.text(
    "aZ09 7½Ⅷ中龥鿿ぁ゠・゛ー\u3099\u3040\u3098アヿ㐀\u0301ो .,!'_-$€。、"
    "\n\r\t\x00\x85\u00a0\u3000\u200d\u2028\u00ad\ue000",
    max_size=24,
)


def reference(digits: Digits) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in sequential_patterns(digits)]
    return pre_tokenizers.Sequence(splits)


def pieces_of_tiktoken(texts: list[str], digits: Digits) -> list[list[str]]:
    """With every part of the texts in the vocabulary, each piece of the pattern is one token."""
    parts = {text[i:j].encode() for text in texts for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    tokens = [bytes([byte]) for byte in range(256)]
    ranks = {token: rank for rank, token in enumerate([*tokens, *sorted(parts.difference(tokens))])}
    encoding = tiktoken.Encoding("pieces", pat_str=single_pattern(digits), mergeable_ranks=ranks, special_tokens={})
    return [[encoding.decode_single_token_bytes(t).decode() for t in encoding.encode_ordinary(x)] for x in texts]


def pieces_of_tokenizers(text: str, digits: Digits) -> list[str]:
    return [piece for piece, _ in reference(digits).pre_tokenize_str(text)]


@pytest.mark.parametrize("digits", [1, 3])
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(MIXED | st.text(max_size=16), min_size=1, max_size=4))
def test_same_pieces_for_any_text(digits: Digits, texts: list[str]) -> None:
    assert pieces_of_tiktoken(texts, digits) == [pieces_of_tokenizers(text, digits) for text in texts]


def test_same_pieces_around_one_character_of_every_kind() -> None:
    characters = [
        chr(code) for code in (*range(0x250), *range(0x2FF0, 0x3140), 0x9FA5, 0x9FA6, 0xE000, 0x1D7D8, 0x1F600)
    ]
    seen = {unicodedata.category(character) for character in characters}
    for code in range(0x250, 0x11000):
        category = unicodedata.category(chr(code))
        if category != "Cs" and category not in seen:
            seen.add(category)
            characters.append(chr(code))
    around = [t for c in characters for t in (c, f"a{c}b", f" {c} ", f"{c}中{c}", f"1{c}1", f"{c}{c}\n", f"・{c}")]
    assert pieces_of_tiktoken(around, 1) == [pieces_of_tokenizers(text, 1) for text in around]


@pytest.mark.parametrize(
    ("digits", "text", "pieces"),
    [
        (3, "12345", ["123", "45"]),
        (1, "12345", ["1", "2", "3", "4", "5"]),
        (3, "Hello, world!\n\nx", ["Hello", ",", " world", "!\n\n", "x"]),
        (3, "x  中文 y", ["x", "  ", "中文", " y"]),
        (3, "アイ・ウ", ["アイ", "・", "ウ"]),
        (3, "a = b_c(d)", ["a", " =", " b", "_c", "(d", ")"]),
        (3, "end   \n  x", ["end", "   \n", " ", " x"]),
        (3, "\x00\x01\x02a", ["\x00\x01", "\x02a"]),
    ],
)
def test_pieces_as_v3_cuts_them(digits: Digits, text: str, pieces: list[str]) -> None:
    assert pieces_of_tokenizers(text, digits) == pieces
    assert pieces_of_tiktoken([text], digits) == [pieces]
