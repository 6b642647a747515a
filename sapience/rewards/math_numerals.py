"""Numbers written in Chinese characters: 二十, 一百零五, 百分之五十, 三分之一, 二又三分之一, 3万, 1.5亿.

Only plain numerals are read, as `12`, `50%`, `(1)/(3)`: what the rest of the reading understands. A numeral with its places
out of order (十百) is left alone and will not be read as a number.
"""

from __future__ import annotations

import re

_DIGITS = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"亿": 10**8, "万": 10**4}
_LONGEST = 24
"""Characters of a Chinese numeral; longer ones are no plain numbers."""
_NUMERAL = "[零〇一二两三四五六七八九十百千万亿]+"
_ARABIC = r"\d+(?:\.\d+)?"
_FRACTION = re.compile(rf"(?:({_NUMERAL}|\d+)又)?({_NUMERAL}|\d+)分之({_NUMERAL}|{_ARABIC})")
_MIXED = re.compile(r"(\d+)又(\d+/\d+)")
_DECIMAL = re.compile(f"({_NUMERAL})点([零〇一二三四五六七八九]+)")
_SCALED = re.compile(rf"({_ARABIC})([万亿])")


def with_arabic_numerals(text: str) -> str:
    """The text with a Chinese numeral at its beginning, after an optional sign, written in Arabic digits."""
    sign, rest = ("-", text[1:]) if text[:1] in ("负", "-") else ("", text)
    for pattern, spelled in (
        (_FRACTION, _fraction),
        (_MIXED, _mixed),
        (_DECIMAL, _decimal),
        (_SCALED, _scaled),
        (_WHOLE, _whole),
    ):
        found = pattern.match(rest)
        written = spelled(found) if found else None
        if found and written is not None:
            return sign + written + " " + rest[found.end() :]
    return sign + rest if text.startswith("负") else text


def whole_number(numeral: str) -> int | None:
    """The value of a Chinese numeral or of Arabic digits; None where the characters do not make a numeral."""
    if len(numeral) > _LONGEST and not numeral.isascii():
        return None
    if numeral.isascii():
        return int(numeral) if numeral.isdigit() and len(numeral) <= 400 else None
    for myriad, factor in _MYRIADS.items():
        if myriad in numeral:
            upper, _, lower = numeral.rpartition(myriad)
            high, low = whole_number(upper), whole_number(lower) if lower else 0
            return None if high is None or low is None or low >= factor or high == 0 else high * factor + low
    return _below_ten_thousand(numeral)


def _below_ten_thousand(numeral: str) -> int | None:
    if len(numeral) > 9 or not numeral:
        return None
    if not any(place in numeral for place in _PLACES):  # one digit, or digits one after the other as in a year
        digits = "".join(str(_DIGITS[sign]) for sign in numeral)
        return int(digits) if len(digits) == 1 or "零" not in numeral[:1] else None
    total, digit, lowest = 0, -1, 10_000  # a digit of -1 was not said, 零 only parts
    for sign in numeral:
        if sign in _PLACES:
            place = _PLACES[sign]
            if place >= lowest or digit == 0 or (digit < 0 and (place != 10 or total)):
                return None
            total, digit, lowest = total + abs(digit) * place, -1, place
        elif digit > 0:
            return None
        else:
            digit = _DIGITS[sign]
    if digit > 0 and lowest > 10 and "零" not in numeral and "〇" not in numeral:
        return None  # 一千五 says 1500 to one reader and 1005 to another
    return total + max(digit, 0)


def _fraction(found: re.Match[str]) -> str | None:
    whole = whole_number(found[1]) if found[1] else 0
    below = {"百": 100, "千": 1000, "万": 10_000}.get(found[2]) or whole_number(found[2])
    above = found[3] if found[3].replace(".", "").isascii() else whole_number(found[3])
    if whole is None or below is None or above is None or below == 0:
        return None
    if found[2] == "百" and not found[1]:
        return f"{above}%"
    if not found[1]:
        return f"({above})/({below})"
    if "." in str(above) or int(above) >= below:
        return None
    return f"({whole * below + int(above)})/({below})"


def _mixed(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]}"


def _decimal(found: re.Match[str]) -> str | None:
    whole = whole_number(found[1])
    return None if whole is None else f"{whole}." + "".join(str(_DIGITS[sign]) for sign in found[2])


def _scaled(found: re.Match[str]) -> str:
    whole, _, decimals = found[1].partition(".")
    zeros = 4 if found[2] == "万" else 8
    if len(decimals) > zeros:
        return f"{whole}{decimals[:zeros]}.{decimals[zeros:]}"
    return whole + decimals.ljust(zeros, "0")


_WHOLE = re.compile(_NUMERAL)


def _whole(found: re.Match[str]) -> str | None:
    value = whole_number(found[0])
    return None if value is None else str(value)
