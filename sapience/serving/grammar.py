"""Answers of a form: JSON, JSON by a schema, function calls; as a constraint on what may be drawn next.

llguidance does the work: a Lark-like grammar with JSON schemas inside, a mask of tokens for each step in less than a
millisecond even for V3's 129 280 tokens, no dependencies and no network. It is given the bytes of every token by our
tokenizer, so that any tokenizer.json will do.

White space between JSON's parts is one blank, or one line end with an indent: a model that was never taught to stop would
fill its answer with it. Keywords of JSON Schema that llguidance cannot keep to are an error. What is not
covered: an answer that reaches its limit of tokens before the grammar's end is cut there, and is then no JSON.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from sapience.corpus.tokenizer import Tokenizer
from sapience.inference.requests import Constraint
from sapience.serving.tool_calls import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    FENCE_BEGIN,
    FENCE_END,
    SEPARATOR,
)

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_WHITE_SPACE = r"( |\n[ ]{0,16})?"
_KEPT = 64
"""Compiled grammars of one model: programs ask for the same form over and over."""
_LONGEST = 1 << 16
"""Characters of a grammar. What is compiled grows with them, and so does the time of the first mask."""


class Impossible(ValueError):
    """A form that no answer can have, or that is not understood."""


class Grammars:
    """The grammars of one model's tokenizer. From any thread."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        """`vocabulary`: rows of the model's head, the tokenizer's ids or more."""
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._lock = threading.Lock()
        self._table: LLTokenizer | None = None
        self._compiled = lru_cache(_KEPT)(self._compile)

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """Makes the constraint of one answer after another. Raises Impossible."""
        if len(grammar) > _LONGEST:
            raise Impossible(f"its description has {len(grammar)} characters, and at most {_LONGEST} are taken")
        with self._lock:
            matcher = self._compiled(grammar)

        return lambda: Follows(matcher.deep_copy(), self._vocabulary)

    def json(self, schema: Mapping[str, Any]) -> str:
        """The grammar of JSON that fits a schema."""
        return f"start: answer\nanswer: {_json(schema)}"

    def text_with_calls(self, tools: Mapping[str, Mapping[str, Any]], several: bool) -> str:
        """The grammar of any text, with calls of these functions at its end or none."""
        rules = self.calls(tools, several).splitlines()
        rest = rules[1].removeprefix(f"calls: {self._marker(CALLS_BEGIN)}")
        if CALLS_BEGIN in self._tokenizer.special:
            rules[:2] = ["start: TEXT | TEXT calls", f"calls: {self._marker(CALLS_BEGIN)}{rest}"]
        else:
            rules[:2] = [
                "start: TEXT | opened",
                f"opened: opening{rest}",
                f"opening[lazy]: TEXT {self._marker(CALLS_BEGIN)}",
            ]
        return "\n".join([*rules, r"TEXT: /(.|\n)*/"])

    def calls(
        self, tools: Mapping[str, Mapping[str, Any]], several: bool, or_json: Mapping[str, Any] | None = None
    ) -> str:
        """The grammar of calls of some of these functions (parameters by name), one at least; `or_json`: or of JSON."""
        begin, end = self._marker(CALL_BEGIN), self._marker(CALL_END)
        rules = [
            f"start: calls{' | answer' if or_json is not None else ''}",
            f"calls: {self._marker(CALLS_BEGIN)} call{_more(several)} {self._marker(CALLS_END)}",
            f'call: {begin} "function" {self._marker(SEPARATOR)} ({" | ".join(f"f{i}" for i in range(len(tools)))}) {end}',
        ]
        for place, (name, parameters) in enumerate(tools.items()):
            rules += [
                f"f{place}: {json.dumps(name + FENCE_BEGIN)} a{place} {json.dumps(FENCE_END)}",
                f"a{place}: {_json(parameters)}",
            ]
        if or_json is not None:
            rules.append(f"answer: {_json(or_json)}")
        return "\n".join(rules)

    def _marker(self, name: str) -> str:
        special = self._tokenizer.special.get(name)
        return json.dumps(name, ensure_ascii=False) if special is None else f"<[{special}]>"

    def _compile(self, grammar: str) -> LLMatcher:
        if self._table is None:
            self._table = LLTokenizer(
                TokenizerWrapper(_Bytes(self._tokenizer, self._vocabulary)),
                n_vocab=self._vocabulary,
                eos_token=self._tokenizer.eos_id,
            )
        matcher = LLMatcher(self._table, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise Impossible(matcher.get_error().splitlines()[0])
        if Follows(matcher.deep_copy(), self._vocabulary).lost():
            raise Impossible("no answer can have it: does a part refer to nothing but itself?")
        return matcher


class Follows:
    """A grammar's place in one answer."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> Tensor:
        if not self._matcher.is_error():
            bias = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
            if not self._gave_up():
                return torch.from_numpy(bias[: self._vocabulary] != 0)
        return torch.zeros(self._vocabulary, dtype=torch.bool)

    def lost(self) -> bool:
        """Whether nothing is allowed here, not even an end."""
        return not bool(self.allowed().any())

    def _gave_up(self) -> bool:
        """llguidance then allows the end and says of no error."""
        return self._matcher.is_stopped() and self._matcher.stop_reason() == "InternalError"

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


class _Bytes:
    """A vocabulary as llguidance wants to see it. Ids without an entry get a name that no grammar mentions."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        named = [tokenizer.token_bytes(index) for index in range(vocabulary)]
        empty = [index for index, name in enumerate(named) if not name]
        self.tokens = [name or f"<no token {index}>".encode() for index, name in enumerate(named)]
        self.special_token_ids: Sequence[int] = sorted({*tokenizer.special.values(), *empty})
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": _WHITE_SPACE}})


def _more(several: bool) -> str:
    return ' ("\\n" call)*' if several else ""
