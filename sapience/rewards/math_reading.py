r"""From the text of an answer to its form, or the reason why it has none.

Where a text has two readings, the right answer decides: a letter that occurs in it is a variable and no unit, and a
comma between digits parts thousands unless it is a list. Pure and quick: nothing is simplified here, and the
time is in proportion to the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapience.rewards.math_expression import FUNCTIONS, Expression, names
from sapience.rewards.math_forms import (
    Bracketed,
    Form,
    Infinity,
    Matrix,
    Named,
    Relation,
    Scalar,
    Several,
    Word,
    letters_of,
)
from sapience.rewards.math_numerals import with_arabic_numerals
from sapience.rewards.math_parsing import parse
from sapience.rewards.math_text import UnreadableError, cleaned
from sapience.rewards.math_units import split_unit, without_money_sign

_OPENING, _CLOSING = "([{⦃⟨", ")]}⦄⟩"
_MOST_ITEMS = 40
_DEEPEST_FORM = 6
_NAME = re.compile(
    r"(?:\\angle\s*[A-Z]{1,3}|[A-Za-z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega)|[A-Z]{2})"
    r"\s*(?:_\s*(?:\{\w+\}|\w))?(?:\((?:[a-z](?:, ?[a-z])*|-?\d+)\))?'?"
    r"|\((?:[a-z], ?)+[a-z]\)"
)
_WORDS = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*")
_SEPARATOR = re.compile(r'\s*"?\s*(?:[,;、]\s*"?\s*(?:and|or)\b|[,;、]|\b(?:and|or)\b|以及|或者|[和或与及])\s*"?\s*')
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_MATRIX = re.compile(r"\\begin\s*\{([pb]?matrix)\}(.*)\\end\s*\{\1\}")
_RELATION = re.compile(r"\s*([=<>≤≥≠])\s*")
_TURNED = {">": "<", "≥": "≤"}


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the right answer says about how to read another: its letters, and whether it is a list."""

    letters: frozenset[str] | None = None
    is_list: bool = False


def read(text: str, right: Form | None = None) -> Form:
    """The form of an answer, the `right` one where that is None, else one that will be compared with `right`.

    Raises UnreadableError.
    """
    if right is None:
        return _read(cleaned(text), _Expected(), 0)
    return _read(cleaned(text), _Expected(letters_of(right), isinstance(right, Several) and right.kind == "list"), 0)


def _read(text: str, expected: _Expected, depth: int) -> Form:
    if depth > _DEEPEST_FORM:
        raise UnreadableError("nested too deeply")
    if text[0] + text[-1] == "{}" and _is_one_bracket(text) and len(text) > 2:
        text = text[1:-1].strip() or "⦃"  # braces around everything only group
    member = _split(text, re.compile(r"\s*∈\s*"))
    if len(member) == 2 and _NAME.fullmatch(member[0]):
        form = _read(member[1], expected, depth + 1)
        if not isinstance(form, Bracketed) and not (isinstance(form, Several) and form.kind != "list"):
            raise UnreadableError("something else than a set beside ∈")
        return Named(_name(member[0]), form)
    parts = _split(text, re.compile(r"\s*∪\s*"))
    if len(parts) > 1:
        return Several("union", tuple(_set_or_interval(part, expected, depth) for part in parts))
    text = _joined_thousands(text, expected.is_list)
    parts = _split(text, _SEPARATOR)
    if len(parts) > 1 and not _is_wordy(text):
        items = tuple(item for part in parts for item in _alternatives(part, expected, depth))
        return _union(text, items) or Several("list", _few(items))
    parts = _split(text, re.compile(r"\s*:\s*"))
    if len(parts) > 1:
        terms = tuple(_atom(part, expected) for part in parts)
        return Bracketed(":", _few(terms), ":")
    items = tuple(_alternatives(text, expected, depth))
    return items[0] if len(items) == 1 else Several("list", items)


def _union(text: str, items: tuple[Form, ...]) -> Named | None:
    """`x < 2 or x > 3` as a union of intervals; `and` would be what both have in common, and a comma leaves it open."""
    if re.search(r"[,;、和与及]|\band\b", text):
        return None
    named = [item for item in items if isinstance(item, Named) and isinstance(item.form, Bracketed)]
    if len(named) < len(items) or len({item.name for item in named}) > 1:
        return None
    return Named(named[0].name, Several("union", tuple(item.form for item in named)))


def _is_wordy(text: str) -> bool:
    """`Tom and Jerry` stays together; a list of words that are parted by commas does not."""
    return '"' not in text and "," not in text and bool(_WORDS.fullmatch(text)) and text.isascii()


def _joined_thousands(text: str, is_list: bool) -> str:
    """Without the commas inside 1,234,567; where a list is expected, only if other separators part its members."""
    if is_list and not re.search(r",\s|\b(?:and|or)\b|[;、和或与]", text):
        return text
    joined, at = [], 0
    for found in _THOUSANDS.finditer(text):
        if _depth_at(text, found.start()) == 0:
            joined += [text[at : found.start()], found[1].replace(",", "")]
            at = found.end()
    return "".join([*joined, text[at:]])


def _depth_at(text: str, at: int) -> int:
    return sum(sign in _OPENING for sign in text[:at]) - sum(sign in _CLOSING for sign in text[:at])


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Parts between separators outside all brackets. A half-open interval closes with another bracket than it opens with."""
    depths, depth = [], 0
    for sign in text:
        depth -= sign in _CLOSING
        depths.append(depth)
        depth += sign in _OPENING
    if depth or min(depths, default=0) < 0:
        raise UnreadableError("brackets that do not match")
    if r"\begin" in text:
        return [text]
    parts, at = [], 0
    for found in separator.finditer(text):
        if found.end() > found.start() and not any(depths[found.start() : found.end()]):
            parts.append(text[at : found.start()].strip())
            at = found.end()
    parts.append(text[at:].strip())
    if len(parts) > 1 and not all(parts):
        raise UnreadableError("a list with nothing between two separators")
    return parts


def _few(items: tuple[Form, ...]) -> tuple[Form, ...]:
    if len(items) > _MOST_ITEMS:
        raise UnreadableError(f"more than {_MOST_ITEMS} answers")
    return items


def _alternatives(text: str, expected: _Expected, depth: int) -> list[Form]:
    """One form, or the two that `±` stands for."""
    outside = [at for at, sign in enumerate(text) if sign == "±" and _depth_at(text, at) == 0]
    if not outside:  # one inside braces belongs to a member of the set
        return [_one(text, expected, depth)]
    if len(outside) > 1 or text.count("±") > 1:
        raise UnreadableError("signs ± that leave open which go together")
    return [_one(text.replace("±", sign).strip(), expected, depth) for sign in "+-"]


def _one(text: str, expected: _Expected, depth: int) -> Form:
    signs = _RELATION.findall(text)
    sides = _split(text, _RELATION)
    if len(sides) > 1:
        if len(signs) != len(sides) - 1:
            raise UnreadableError("a relation inside brackets")
        return _relation(sides, signs, expected, depth)
    if found := _MATRIX.fullmatch(text):
        return _matrix(found[2], expected, depth)
    return _bracketed(text, expected, depth) or _atom(text, expected)


def _set_or_interval(text: str, expected: _Expected, depth: int) -> Form:
    form = _bracketed(text, expected, depth)
    if form is None:
        raise UnreadableError("something else than a set or an interval beside ∪")
    return form


def _bracketed(text: str, expected: _Expected, depth: int) -> Form | None:
    """A set in braces, or a pair of brackets with commas between; None for what is no such thing."""
    if text == "⦃⦄":
        return Several("set", ())
    if len(text) < 3 or text[0] not in "([⦃⟨" or text[-1] not in ")]⦄⟩" or not _is_one_bracket(text):
        return None
    if depth >= _DEEPEST_FORM:
        raise UnreadableError("nested too deeply")
    parts = _split(text[1:-1].strip(), re.compile(r"\s*[,;]\s*"))
    items = tuple(item for part in parts for item in _alternatives(part, expected, depth + 1))
    if text[0] == "⦃" and text[-1] == "⦄":
        return Several("set", _few(items))
    if len(parts) < 2 or "⦃" in (text[0], text[-1]):
        return None
    if len(items) != len(parts):
        raise UnreadableError("a sign ± inside brackets")
    return Bracketed(text[0], _few(items), text[-1])


def _is_one_bracket(text: str) -> bool:
    """Whether the first bracket closes at the very end."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth == 0:
            return at == len(text) - 1
    return False


def _relation(sides: list[str], signs: list[str], expected: _Expected, depth: int) -> Form:
    if len(signs) == 1 and signs[0] == "=":
        if _NAME.fullmatch(sides[0]):
            value = _bracketed(sides[1], expected, depth) or _matrix_or_atom(sides[1], expected, depth)
            if isinstance(value, Scalar) and not value.unit and "(" not in sides[0] and _variables(value.expression):
                return Relation("=", parse(sides[0].replace("'", "")), value.expression, _name(sides[0]))
            return Named(_name(sides[0]), value)
        return Relation("=", parse(sides[0]), parse(sides[1]))
    interval = _interval(sides, signs, expected)
    if interval is not None:
        return interval
    if len(signs) > 1:
        raise UnreadableError("a chain of relations")
    left, right = (sides[1], sides[0]) if signs[0] in _TURNED else (sides[0], sides[1])
    return Relation(_TURNED.get(signs[0], signs[0]), parse(left), parse(right))


def _matrix_or_atom(text: str, expected: _Expected, depth: int) -> Form:
    found = _MATRIX.fullmatch(text)
    return _matrix(found[2], expected, depth) if found else _atom(text, expected)


def _interval(sides: list[str], signs: list[str], expected: _Expected) -> Form | None:
    """`2 < x ≤ 5` and `x > 3` as the interval of x; None where it is none."""
    if set(signs) <= {">", "≥"}:
        sides, signs = sides[::-1], [_TURNED[sign] for sign in signs[::-1]]
    named = [place for place, side in enumerate(sides) if _NAME.fullmatch(side)]
    if not set(signs) <= {"<", "≤"} or named not in ([0], [1]) or len(sides) != 3 - (len(signs) == 1):
        return None
    if len(sides) == 3 and named != [1]:
        return None
    low = _end(sides[0], expected) if named == [1] else Infinity(-1)
    high = _end(sides[-1], expected) if named == [0] or len(sides) == 3 else Infinity(1)
    if low is None or high is None:
        return None
    opening = "[" if named == [1] and signs[0] == "≤" else "("
    closing = "]" if not isinstance(high, Infinity) and signs[-1] == "≤" else ")"
    return Named(_name(sides[named[0]]), Bracketed(opening, (low, high), closing))


def _end(text: str, expected: _Expected) -> Form | None:
    """An interval's end; None for what has a variable in it."""
    form = _atom(text, expected)
    return None if isinstance(form, Word) or (isinstance(form, Scalar) and _variables(form.expression)) else form


def _variables(expression: Expression) -> frozenset[str]:
    return names(expression) - {"pi", "e", "i"}


def _name(text: str) -> str:
    return text.translate(str.maketrans("", "", " {}"))


def _matrix(body: str, expected: _Expected, depth: int) -> Matrix:
    lines = [line for line in body.split("⏎") if line.strip()]
    rows = tuple(tuple(_one(cell.strip(), expected, depth + 1) for cell in line.split("&")) for line in lines)
    if not rows or len({len(row) for row in rows}) > 1 or sum(map(len, rows)) > _MOST_ITEMS:
        raise UnreadableError("a matrix that is empty, uneven or too big")
    return Matrix(rows)


def _atom(text: str, expected: _Expected) -> Form:
    if found := re.fullmatch(r"([+-]?)\s*(?:∞|infinity)", text):
        return Infinity(-1 if found[1] == "-" else 1)
    bare = " ".join(text.replace('"', " ").split())
    if found := re.fullmatch(r"\(?\s*([A-Z])\s*\)?", bare):
        return Word(found[1])
    if _WORDS.fullmatch(bare) and _is_word(text, bare):
        numeral = with_arabic_numerals(bare)
        if numeral == bare:
            return Word(bare)
        text = numeral
    return _scalar(text, expected)


def _is_word(text: str, bare: str) -> bool:
    """Whether letters are a word rather than a product of names or a function of one: marked as text, or long enough."""
    if not bare.isascii():
        return True
    parts = re.split("[ '-]", bare)
    if '"' in text:
        return len(bare) > 1 and bare.replace(" ", "") not in FUNCTIONS
    return bare.lower() == "no" or (min(map(len, parts)) > 2 and not FUNCTIONS.intersection(parts))


def _scalar(text: str, expected: _Expected) -> Scalar:
    text, money = without_money_sign(text)
    text = with_arabic_numerals(text.strip())
    if found := re.fullmatch(r'(.*?)\s*"?(?:%|percent|per cent)\s*"?', text.strip(), re.IGNORECASE):
        if money:
            raise UnreadableError("money in per cent")
        return Scalar(parse(found[1].replace('"', " ")), "%")
    amount, unit, told = split_unit(text)
    letter = text.replace('"', " ").split()[-1][-1:] if unit else ""
    if unit and not told:
        # an answer's bare letter is a unit only where it stands apart and is no variable of the right answer's
        is_variable = expected.letters is None or letter in expected.letters or not re.search(r"\d\s+[A-Za-z]$", text)
        amount, unit = (text, "") if is_variable else (amount, unit)
    elif unit and len(unit) == 1 and expected.letters and letter in expected.letters:
        amount, unit = text, ""
    if money and unit and unit != money and not unit.startswith(money + "/"):
        raise UnreadableError("two units")
    return Scalar(parse(_with_scale(amount.replace('"', " "))), unit or money)


def _with_scale(amount: str) -> str:
    """The amount with a word for its size (`3 million`) written as a factor."""
    found = re.fullmatch(r"(.*\d)\s*(hundred|thousand|million|billion)", amount.strip(), re.IGNORECASE)
    if not found:
        return amount
    zeros = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9}[found[2].lower()]
    return f"({found[1]})*10^{zeros}"
