r"""From the many spellings of a mathematical answer to one plain line of text.

Unicode and LaTeX have a dozen ways to write a minus sign, a space, a fraction or a degree. They are made one here, before
anything is read: `\dfrac{1}{2}` and `\frac{1}{2}`, `\leq` and `≤`, `１２` and `12`, `x²` and `x^{2}`. The result is still
text. Set braces come out as `⦃ ⦄`, since bare braces only group; words in `\text{...}` stand between double quotes.

Characters that are not seen (control, zero width, direction marks) are refused instead of dropped: what a person reads
has to be what is judged. No computer algebra here, and time is in proportion to the text.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST = 1000
"""Characters; no final answer that somebody wrote down is longer."""

_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_LAID_OUT = ("<super>", "<sub>", "<circle>")
"""Signs that NFKC would make ordinary digits and letters, in the middle of a number even."""
_SQUARE_SIGNS = {"㎡": "m^2", "㎠": "cm^2", "㎢": "km^2", "㎥": "m^3", "㎤": "cm^3", "㎜": "mm", "㎝": "cm", "㎞": "km"}
_SIGNS = {
    "\N{MINUS SIGN}": "-", "‐": "-", "‑": "-", "×": "*", "÷": "/", "·": "*", "⋅": "*", "⁄": "/", "⩽": "≤", "⩾": "≥", "≦": "≤",
    "≧": "≥", "∞": "∞", "√": r"\sqrt ", "∅": "⦃⦄",
}  # fmt: skip
_GREEK = dict(zip("αβγδθλμρσφω", "alpha beta gamma delta theta lambda mu rho sigma phi omega".split(), strict=True))
_COMMANDS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom",
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥",
    "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠", "lt": "<", "gt": ">", "cup": "∪", "in": "∈", "infty": "∞",
    "circ": "°", "degree": "°", "emptyset": "⦃⦄", "varnothing": "⦃⦄", "lbrace": "⦃", "rbrace": "⦄", "langle": "⟨",
    "rangle": "⟩", "vert": "|", "lvert": "|", "rvert": "|", "quad": " ", "qquad": " ", "displaystyle": " ", "textstyle": " ",
    "left": "", "right": "", "bigl": "", "bigr": "", "big": "", "Bigl": "", "Bigr": "", "Big": "", "limits": "",
    "varphi": r"\phi", "arctg": r"\arctan", "tg": r"\tan", "ctg": r"\cot", "land": " and ", "lor": " or ", "yen": "¥",
    "pounds": "£", "euro": "€", "cent": "¢",
}  # fmt: skip
_SYMBOLS = {r"\{": "⦃", r"\}": "⦄", r"\%": "%", r"\$": "\x01", r"\,": " ", r"\;": " ", r"\:": " ", r"\ ": " ", r"\!": "",
            r"\|": "|", r"\#": "#", r"\&": "&"}  # fmt: skip
_ONE_COMMAND = re.compile(r"\\([A-Za-z]+)(?![A-Za-z])")
_TEXT_COMMANDS = "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathbf mathit rm operatorname"
_WRAPPED = re.compile(rf"\\(?:{'|'.join(_TEXT_COMMANDS.split())})\s*\{{([^{{}}]*)\}}")
_GROUPED_DIGITS = re.compile(r"(?<![\d.,}])[1-9]\d{0,2}(?:(?:\{,\}|,\\!|\\,)\s*\d{3})+(?!\d)")
_GAP = re.compile(r"[^\d]+")
_DOLLAR = re.compile(r"(?<!\\)\$")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"))


class UnreadableError(ValueError):
    """An answer that cannot be read; the message is a clause that says why."""


def cleaned(text: str) -> str:
    """The text in one spelling. Raises UnreadableError for what is too long, empty or holds characters nobody sees."""
    if len(text) > LONGEST:
        raise UnreadableError(f"longer than {LONGEST} characters")
    line = _plain_delimiters(_visible(text))
    line = _GROUPED_DIGITS.sub(lambda found: _GAP.sub("", found[0]), line)
    line = _WRAPPED.sub(lambda found: f' "{found[1].strip()}" ' if found[1].strip() else " ", line)
    line = re.sub(r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})", "°", line)
    line = re.sub(r"\\\\", "⏎", line)  # ends a row of a matrix
    line = re.sub(
        r"\\[^A-Za-z\s]|\\\s", lambda found: _SYMBOLS.get(found[0], " " if found[0][1:].isspace() else found[0]), line
    )
    line = _ONE_COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[0]), line)
    for typed, sign in (("<=", "≤"), (">=", "≥"), (" != ", " ≠ "), ("==", "=")):  # 5!=120 is a factorial
        line = line.replace(typed, sign)
    line = re.sub(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({\\-])", "^", line)  # a power as Python writes it
    line = line.replace("$", "\x01").replace("~", " ").replace("\x01", "$")
    line = " ".join(line.split())
    line = re.sub(r"[\s.。]+$", "", line) if not line.endswith("...") else line
    if not line:
        raise UnreadableError("empty")
    return line


def _visible(text: str) -> str:
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda found: "^{" + found[0].translate(_RAISED) + "}", text)
    text = re.sub("[₀-₉]+", lambda found: "_{" + found[0].translate(_LOWERED) + "}", text)
    for sign, spelled in _SQUARE_SIGNS.items():
        text = text.replace(sign, spelled)
    if strange := next((sign for sign in text if unicodedata.decomposition(sign).startswith(_LAID_OUT)), None):
        raise UnreadableError(f"the sign '{strange}'")
    # ½ behind a digit is a mixed number: without the blank 2½ would become 21/2
    text = "".join(" " + unicodedata.normalize("NFKC", sign) + " " if _is_fraction(sign) else sign for sign in text)
    text = unicodedata.normalize("NFKC", text)
    if len(text) > 2 * LONGEST:
        raise UnreadableError("signs that stand for long texts")
    text = re.sub(r"√\s*(\d+(?:\.\d+)?)", r"\\sqrt{\1}", text)
    for sign, spelled in _SIGNS.items():
        text = text.replace(sign, spelled)
    for sign, name in _GREEK.items():
        text = text.replace(sign, f"\\{name} ")
    text = text.replace("π", r"\pi ")
    for sign in text:
        if unicodedata.category(sign)[0] == "C" and sign not in "\n\t\r":
            raise UnreadableError(f"the unseen character U+{ord(sign):04X}")
        if not sign.isascii() and unicodedata.category(sign)[0] == "N" and sign != "〇":
            raise UnreadableError(f"the digit '{sign}'")  # Python would compute with it
    return text


def _is_fraction(sign: str) -> bool:
    return unicodedata.category(sign) == "No" and "⁄" in unicodedata.normalize("NFKC", sign)


def _plain_delimiters(text: str) -> str:
    line = text.strip().rstrip(".。 ") if not text.rstrip().endswith("...") else text.strip()
    changed = True
    while changed:
        changed = False
        for opening, closing in _DELIMITERS:
            inner = line[len(opening) : len(line) - len(closing)]
            if len(line) > len(opening) + len(closing) and line.startswith(opening) and line.endswith(closing):
                if line.endswith("\\" + closing) or opening in inner.replace("\\" + opening, ""):
                    continue
                line, changed = inner.strip(), True
    # `$x$ cm`, `$1$ or $2$`: an even number of them delimits, a single one is a currency
    return _DOLLAR.sub(" ", line) if len(_DOLLAR.findall(line)) % 2 == 0 else line
