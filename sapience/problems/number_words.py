"""Numbers from 0 to 999 in words (German, Spanish, French, Chinese) and the family that asks to translate them.

Written out by each language's own rules instead of through a library: the rules are a dozen lines each, and a
problem set that changes with a library's version would change the split. Ordinals, gender and numbers of a
thousand and more are not covered.
"""

from __future__ import annotations

from random import Random

from sapience.problems.problem import Problem

LIMIT = 1000
_GERMAN_SMALL = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
).split()
_GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_SPANISH_SMALL = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
).split()
_SPANISH_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_SPANISH_HUNDREDS = (
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos"
).split()
_FRENCH_SMALL = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_FRENCH_TENS = "vingt trente quarante cinquante soixante".split()
_CHINESE_DIGITS = "零一二三四五六七八九"


def german(number: int) -> str:
    """In one word, as German spells it: 321 is `dreihunderteinundzwanzig`."""
    if number < 20:
        return _GERMAN_SMALL[number]
    if number < 100:
        tens, ones = _GERMAN_TENS[number // 10 - 2], number % 10
        joint = "ein" if ones == 1 else _GERMAN_SMALL[ones]
        return f"{joint}und{tens}" if ones else tens
    hundreds = "ein" if number < 200 else _GERMAN_SMALL[number // 100]
    return f"{hundreds}hundert" + (german(number % 100) if number % 100 else "")


def spanish(number: int) -> str:
    """321 is `trescientos veintiuno`; 100 alone is `cien`."""
    if number < 30:
        return _SPANISH_SMALL[number]
    if number < 100:
        tens, ones = _SPANISH_TENS[number // 10 - 3], number % 10
        return f"{tens} y {_SPANISH_SMALL[ones]}" if ones else tens
    if number == 100:
        return "cien"
    hundreds = _SPANISH_HUNDREDS[number // 100 - 1]
    return f"{hundreds} {spanish(number % 100)}" if number % 100 else hundreds


def french(number: int) -> str:
    """Traditional spelling of France: 71 is `soixante et onze`, 80 `quatre-vingts`, 321 `trois cent vingt et un`."""
    if number < 20:
        return _FRENCH_SMALL[number]
    if number < 70:
        tens, ones = _FRENCH_TENS[number // 10 - 2], number % 10
        if ones == 1:
            return f"{tens} et un"
        return f"{tens}-{_FRENCH_SMALL[ones]}" if ones else tens
    if number < 80:
        return "soixante et onze" if number == 71 else f"soixante-{_FRENCH_SMALL[number - 60]}"
    if number < 100:
        return "quatre-vingts" if number == 80 else f"quatre-vingt-{_FRENCH_SMALL[number - 80]}"
    count, rest = divmod(number, 100)
    hundreds = "cent" if count == 1 else f"{_FRENCH_SMALL[count]} cent"
    if rest:
        return f"{hundreds} {french(rest)}"
    return hundreds if count == 1 else hundreds + "s"


def chinese(number: int) -> str:
    """321 is `三百二十一`, 305 `三百零五`, 12 `十二`, 112 `一百一十二`."""
    if number < 10:
        return _CHINESE_DIGITS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        start = "十" if tens == 1 else _CHINESE_DIGITS[tens] + "十"
        return start + (_CHINESE_DIGITS[ones] if ones else "")
    hundreds, rest = divmod(number, 100)
    start = _CHINESE_DIGITS[hundreds] + "百"
    if not rest:
        return start
    if rest < 10:
        return f"{start}零{_CHINESE_DIGITS[rest]}"
    return start + ("一" if rest < 20 else "") + chinese(rest)


LANGUAGES = {"German": german, "Spanish": spanish, "French": french, "Chinese": chinese}


def draw_number_word(rng: Random) -> Problem:
    """A numeral into words or words into a numeral; 8 000 questions (four languages, both ways, 0-999).

    Three quarters of the draws are below 100, which a small model learns first. No number is spelt as another
    language spells a number, so the language need not be named where words are given.
    """
    number = rng.randrange(100) if rng.random() < 0.75 else rng.randrange(LIMIT)
    language = rng.choice(list(LANGUAGES))
    words = LANGUAGES[language](number)
    if rng.random() < 0.5:
        return Problem("numword", "general", f"Write {number} in {language}.", words, words)
    return Problem("numword", "general", f"Write as a number: {words}", str(number), str(number))
