r"""Reads one expression, `\frac{\sqrt{21}}{5}`, `2(x+1)^2`, `1 4/5`, into a tree, or refuses.

The grammar is narrow on purpose. It is what stands between a text that a model wrote and a computer algebra system: a name is
a letter, a function is one of a list, sizes are bounded, and nothing is ever evaluated as a program. What can be
understood in two ways (`1/2x`, `2 3`, `\sqrt 12`) is refused, since a judge that guesses can be fooled.

Not covered: sums, integrals, limits, calculus: no final answer is written with them.
"""

from __future__ import annotations

import re
from fractions import Fraction

from sapience.rewards.math_expression import FUNCTIONS, Apply, Expression, Name, Number, exact
from sapience.rewards.math_text import UnreadableError

_MOST_TOKENS = 400
_DEEPEST = 30
_CONSTANTS = frozenset(
    {"pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "phi", "omega"}
)
_BARE_WORDS = re.compile(
    rf"(?<![\\A-Za-z])({'|'.join(sorted(FUNCTIONS, key=len, reverse=True))}|sqrt|pi|theta|alpha)(?![A-Za-z])"
)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^_!(){}|°\[\]]")
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+(?:\.\d+)?|\.\d+))[eE]([+-]?\d{1,3})")


def parse(text: str) -> Expression:
    """The tree of a cleaned text. Raises UnreadableError."""
    if found := _SCIENTIFIC.fullmatch(text.strip()):
        return Number(Fraction(found[1]) * Fraction(10) ** int(found[2]))
    return _Parser(_tokens(text)).whole()


def _tokens(text: str) -> list[str]:
    line = _BARE_WORDS.sub(lambda found: f"\\{found[1]} ", text)
    if word := re.search(r"(?<![\\A-Za-z])[A-Za-z]{4,}", line):
        raise UnreadableError(f"the word '{word[0][:30]}'")
    tokens: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
        elif found := _TOKEN.match(line, at):
            tokens.append(found[0])
            at = found.end()
        else:
            raise UnreadableError(f"the sign '{line[at]}'")
        if len(tokens) > _MOST_TOKENS:
            raise UnreadableError(f"more than {_MOST_TOKENS} signs")
    return tokens


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or token[:1] == "."


class _Parser:
    """Recursive descent; `depth` is bounded so that no text reaches Python's own limit."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth, self.bars = tokens, 0, 0, 0

    def whole(self) -> Expression:
        expression = self.sum()
        if self.at < len(self.tokens):
            raise UnreadableError(f"'{self.next}' where none can stand")
        exact(expression)  # refuses what is too big, wherever in the tree it hides
        return expression

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def ahead(self, distance: int) -> str:
        return self.tokens[self.at + distance] if self.at + distance < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise UnreadableError(f"'{token or 'the end'}' in place of '{expected or 'an expression'}'")
        self.at += 1
        return token

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("nested too deeply")
        sign = self.take() if self.next in ("+", "-") else ""
        total = self.product()
        if sign == "-":
            total = Apply("neg", (total,))
        while self.next in ("+", "-"):
            total = Apply(self.take(), (total, self.product()))
        self.depth -= 1
        return total

    def product(self) -> Expression:
        mixed = self.mixed_number()
        result = mixed if mixed is not None else self.factor()
        slashed = False
        while self.next in ("*", "/") or self.starts_a_factor():
            if self.next in ("*", "/"):
                slash = self.take() == "/"
                result = Apply("/" if slash else "*", (result, self.factor()))
                slashed = slashed or slash
            else:
                if slashed or _is_number(self.next):
                    raise UnreadableError("a product that can be understood in two ways")
                result = Apply("*", (result, self.factor()))
        return result

    def mixed_number(self) -> Number | None:
        r"""`1 4/5` or `1\frac{4}{5}`, whole numbers and a proper fraction; else nothing is taken."""
        whole, after = self.next, self.ahead(1)
        if not whole.isdigit() or not (after.isdigit() or after == r"\frac"):
            return None
        self.take()
        if after == r"\frac":
            above, below = self.fraction_arguments()
            if not (isinstance(above, Number) and isinstance(below, Number)):
                raise UnreadableError("a number before a fraction that can be understood in two ways")
            fraction = (above.value, below.value)
        else:
            fraction = (Fraction(self.take()), Fraction(0))
            self.take("/")
            if not self.next.isdigit():
                raise UnreadableError("no mixed number")
            fraction = (fraction[0], Fraction(self.take()))
        if not 0 < fraction[0] < fraction[1] or any(part.denominator != 1 for part in fraction) or self.next == "^":
            raise UnreadableError("no mixed number")
        return Number(int(whole) + fraction[0] / fraction[1])

    def starts_a_factor(self) -> bool:
        token = self.next
        if token == "|":
            return self.bars == 0
        return bool(token) and (_is_number(token) or token.isalpha() or token in "({" or token.startswith("\\"))

    def factor(self) -> Expression:
        base = self.base()
        while self.next in ("^", "!", "°"):
            operation = self.take()
            if operation == "^":
                base = Apply("^", (base, self.exponent()))
                if self.next == "^":
                    raise UnreadableError("a power of a power without braces")
            else:
                base = Apply("deg" if operation == "°" else "!", (base,))
        return base

    def exponent(self) -> Expression:
        if self.next == "-" and _is_number(self.ahead(1)):
            self.take()
            return Apply("neg", (self.base(),))
        return self.base()

    def base(self) -> Expression:
        token = self.take()
        if _is_number(token):
            return self.number(token)
        if token.isalpha():
            return Name(token + self.index())
        if token in "({|":
            return self.group(token)
        return self.command(token.removeprefix("\\"))

    def number(self, token: str) -> Expression:
        if self.next != "_":
            return Number(Fraction(token))
        base = self.index().removeprefix("_")
        if not (token.isdigit() and base.isdigit()):
            raise UnreadableError("digits in no known base")
        return Name(f"{token.lstrip('0') or '0'}_{base}")  # a numeral in another base is right as a numeral alone

    def index(self) -> str:
        if self.next != "_":
            return ""
        self.take()
        braced = self.next == "{"
        parts = [self.take()]
        while braced and self.next not in ("}", ""):
            parts.append(self.take())
        if braced:
            self.take("}")
        name = "".join(parts[1:] if braced else parts)
        if not name.isalnum():
            raise UnreadableError("an index that is neither letters nor digits")
        return "_" + name

    def group(self, opening: str) -> Expression:
        self.bars, outer = int(opening == "|"), self.bars
        inner = self.sum()
        self.take({"(": ")", "{": "}", "|": "|"}[opening])
        self.bars = outer
        return Apply("abs", (inner,)) if opening == "|" else inner

    def command(self, name: str) -> Expression:
        if name in _CONSTANTS:
            return Name(name + self.index())
        if name == "frac":
            self.at -= 1
            return Apply("/", self.fraction_arguments())
        if name == "binom":
            return Apply("binom", (self.braced(), self.braced()))
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function(name)
        raise UnreadableError(f"'{name[:30]}'")

    def root(self) -> Expression:
        if self.next == "[":
            self.take()
            degree = self.base()
            self.take("]")
            return Apply("root", (self.braced(), degree))
        if _is_number(self.next) and len(self.next) > 1:
            raise UnreadableError("a root without braces over several digits")
        if self.next == "{" or self.next == "(" or _is_number(self.next) or self.next.isalpha():
            return Apply("sqrt", (self.base(),))
        raise UnreadableError("a root of nothing")

    def braced(self) -> Expression:
        if self.next != "{":
            raise UnreadableError("no braces where a command wants them")
        return self.base()

    def fraction_arguments(self) -> tuple[Expression, Expression]:
        r"""Both arguments of `\frac`, braced or, as in `\frac12`, one digit or letter each."""
        self.take(r"\frac")
        return self.fraction_argument(), self.fraction_argument()

    def fraction_argument(self) -> Expression:
        token = self.next
        if token == "{":
            return self.base()
        if token.isdigit():
            if len(token) == 1:
                self.take()
            else:
                self.tokens[self.at] = token[1:]
            return Number(Fraction(token[0]))
        if token.isalpha() or token == r"\pi":
            self.take()
            return Name(token.removeprefix("\\"))
        raise UnreadableError("a fraction without braces")

    def function(self, name: str) -> Expression:
        power: Expression | None = None
        base: Expression | None = None
        if name == "log" and self.next == "_":
            self.take()
            base = self.base()
        if self.next == "^":
            self.take()
            power = self.exponent()
            if not isinstance(power, Number):
                raise UnreadableError("a function's inverse written as a power")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("nested too deeply")
        argument = self.argument()
        self.depth -= 1
        result = Apply("logb", (base, argument)) if base is not None else Apply(name, (argument,))
        return result if power is None else Apply("^", (result, power))

    def argument(self) -> Expression:
        r"""A group, or what stands directly behind the function: `\sin 2x`, `\ln 3`, `\cos\frac{\pi}{5}`."""
        if self.next in ("(", "{", "|"):
            return self.base()
        result = self.factor()
        while self.starts_a_factor() and not _is_number(self.next) and self.next not in ("(", "|", "{"):
            if self.next.removeprefix("\\") in FUNCTIONS:
                break
            result = Apply("*", (result, self.factor()))
        return result
