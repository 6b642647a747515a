"""Number words against known spellings and against readers that go the other way by rules of their own."""

from __future__ import annotations

import pytest

from sapience.problems.number_words import LANGUAGES, LIMIT, chinese, french, german, spanish

KNOWN = {
    german: {0: "null", 1: "eins", 16: "sechzehn", 17: "siebzehn", 21: "einundzwanzig", 30: "dreißig", 100: "einhundert",
             101: "einhunderteins", 321: "dreihunderteinundzwanzig", 999: "neunhundertneunundneunzig"},
    spanish: {0: "cero", 16: "dieciséis", 22: "veintidós", 31: "treinta y uno", 100: "cien", 101: "ciento uno",
              500: "quinientos", 716: "setecientos dieciséis", 999: "novecientos noventa y nueve"},
    french: {0: "zéro", 21: "vingt et un", 61: "soixante et un", 70: "soixante-dix", 71: "soixante et onze",
             80: "quatre-vingts", 81: "quatre-vingt-un", 91: "quatre-vingt-onze", 99: "quatre-vingt-dix-neuf",
             100: "cent", 200: "deux cents", 201: "deux cent un", 380: "trois cent quatre-vingts"},
    chinese: {0: "零", 10: "十", 12: "十二", 20: "二十", 45: "四十五", 100: "一百", 105: "一百零五", 110: "一百一十",
              112: "一百一十二", 999: "九百九十九"},
}  # fmt: skip


@pytest.mark.parametrize("language", KNOWN, ids=lambda language: language.__name__)
def test_known_spellings(language) -> None:  # type: ignore[no-untyped-def]
    for number, words in KNOWN[language].items():
        assert language(number) == words


def test_no_two_numbers_share_their_words_in_any_language() -> None:
    assert len({say(number) for say in LANGUAGES.values() for number in range(LIMIT)}) == len(LANGUAGES) * LIMIT


def _read_chinese(words: str) -> int:
    total = digit = 0
    for sign in words:
        if sign == "百":
            total, digit = total + 100 * digit, 0
        elif sign == "十":
            total, digit = total + 10 * (digit or 1), 0
        else:
            digit = "零一二三四五六七八九".index(sign)
    return total + digit


def _read_german(words: str) -> int:
    small = {german(n): n for n in range(20)} | {"ein": 1}
    head, hundred, rest = words.rpartition("hundert")
    total = 100 * small[head] if hundred else 0
    if not rest and hundred:
        return total
    if rest in small:
        return total + small[rest]
    ones, _, tens = rest.rpartition("und")
    stems = ["zwan", "drei", "vier", "fünf", "sech", "sieb", "acht", "neun"]
    return (
        total
        + 10 * (2 + next(i for i, stem in enumerate(stems) if tens.startswith(stem)))
        + (small[ones] if ones else 0)
    )


def _read_additively(words: str, values: dict[str, int], hundred: str) -> int:
    total = 0
    for word in words.split():
        if word == hundred:
            total = max(total, 1) * 100
        else:
            total += values.get(word, 0)
    return total


def _read_french(words: str) -> int:
    values = {french(n): n for n in range(17)} | {
        "vingt": 20,
        "trente": 30,
        "quarante": 40,
        "cinquante": 50,
        "soixante": 60,
    }
    words = (
        words.replace("quatre-vingt", "eighty").replace("eightys", "eighty").replace("-", " ").replace("cents", "cent")
    )
    return _read_additively(words, values | {"eighty": 80}, "cent")


def _read_spanish(words: str) -> int:
    values = {spanish(n): n for n in range(30)} | {spanish(n): n for n in range(30, 100, 10)}
    values |= {"cien": 100, "ciento": 100} | {spanish(n): n for n in range(200, 1000, 100)}
    return _read_additively(words, values, "")


@pytest.mark.parametrize(
    ("say", "read"),
    [(german, _read_german), (spanish, _read_spanish), (french, _read_french), (chinese, _read_chinese)],
)
def test_reading_gives_the_number_back(say, read) -> None:  # type: ignore[no-untyped-def]
    for number in range(LIMIT):
        assert read(say(number)) == number, say(number)
