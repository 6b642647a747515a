"""DeepSeek-V3's pre-tokenization, once as `tokenizers` applies it and once as a single pattern.

V3 splits text three times in a row: digit runs, then ideograph and kana runs, then words, punctuation and white space.
The third split also goes through the pieces of the first two: a kana run is cut at its middle dots.
`rustbpe` and `tiktoken` know one pattern only. The single pattern is the third one written twice, once for the inside
of ideograph runs and once with digits and ideographs taken out of every class, so that a piece ends where an earlier
split would have ended it; look-aheads count them as an end; and last alternatives catch what no alternative of the
third pattern matches (control characters before anything that is no letter), which `tokenizers` keeps as pieces and
`tiktoken` would silently drop.
"""

from typing import Any, Literal

Digits = Literal[1, 3]

IDEOGRAPHS = "一-龥぀-ゟ゠-ヿ"
"""U+4E00-9FA5 and the kana blocks U+3040-309F, U+30A0-30FF, as the released tokenizer has them."""
_IDEOGRAPH_LETTERS = "一-龥ぁ-ゖ\u3099\u309aゝ-ゟァ-ヺー-ヿ"
_IDEOGRAPH_MARKS = "\u309b\u309c\u30a0\u30fb"
_IDEOGRAPH_STRAYS = "\u3040\u3097\u3098"
"""IDEOGRAPHS parted by what the third split makes of them: letters with combining marks, punctuation and symbols, and
code points that are not assigned."""
ASCII_PUNCTUATION = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"""


def digit_pattern(digits: Digits) -> str:
    """First split: digits in runs of up to three (V3), or one by one."""
    return r"\p{N}{1,3}" if digits == 3 else r"\p{N}"


def sequential_patterns(digits: Digits) -> tuple[str, str, str]:
    """The three splits in their order."""
    return (
        digit_pattern(digits),
        f"[{IDEOGRAPHS}]+",
        (
            rf"[{ASCII_PUNCTUATION}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
    )


def single_pattern(digits: Digits) -> str:
    """One pattern whose matches are the pieces of the three splits, without gaps."""
    # A class minus ideographs is written as a look-ahead in front of each character, which every regex engine knows.
    letter = rf"(?![{IDEOGRAPHS}])[\p{{L}}\p{{M}}]"
    mark = rf"(?![{IDEOGRAPHS}])[\p{{P}}\p{{S}}]"
    lead = rf"(?![{IDEOGRAPHS}])[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}]"
    stray = rf"(?![{IDEOGRAPHS}])[^\s\p{{L}}\p{{M}}\p{{N}}\p{{P}}\p{{S}}]"
    return "|".join(
        (
            digit_pattern(digits),
            f"[\u3099\u309a{_IDEOGRAPH_STRAYS}]?[{_IDEOGRAPH_LETTERS}]+",
            f"[{_IDEOGRAPH_MARKS}]+",
            f"[{_IDEOGRAPH_STRAYS}]+(?![{_IDEOGRAPH_LETTERS}])",
            rf"[{ASCII_PUNCTUATION}][A-Za-z]+",
            rf"(?:{lead})?(?:{letter})+",
            rf" ?(?:{mark})+[\r\n]*",
            r"\s*[\r\n]+",
            rf"\s+(?![^\s\p{{N}}{IDEOGRAPHS}])",
            r"\s+",
            rf"(?:{stray}(?!{letter}))+",
        )
    )


def json_pre_tokenizer(digits: Digits) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json: three isolating splits, then bytes."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in sequential_patterns(digits)
    ]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*splits, to_bytes]}
