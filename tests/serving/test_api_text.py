"""Answers' text while it comes, calls in it, prompts from messages, and grammars: without a server."""

import json
import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from api_server import CHAT, TOKENIZER
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate
from pydantic import TypeAdapter

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.tokenizer import ASSISTANT, USER, Tokenizer
from sapience.inference.requests import Token
from sapience.serving.answering import AnswerStream
from sapience.serving.answers import Choice, Said, StopText
from sapience.serving.grammar import Grammars, Impossible
from sapience.serving.prompts import chat_prompt
from sapience.serving.protocol import ChatMessage, Function, Tool
from sapience.serving.refusals import Refused
from sapience.serving.tool_calls import CALLS_BEGIN, CallParser, Marker, ToolCall, calls_written, tokens_of

MESSAGES = TypeAdapter(list[ChatMessage])
CALLS = [ToolCall("add", '{"a": 1}'), ToolCall("now", "{}")]


def spelled(calls: list[ToolCall]) -> str:
    return TOKENIZER.decode(tokens_of(TOKENIZER, calls_written(calls)))


def cut(text: str, places: list[int]) -> list[str]:
    """A text in pieces."""
    marks = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(marks)] or [text]


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(0, 99)),
)
def test_a_stop_string_cuts_the_same_however_the_text_comes(text: str, stops: list[str], places: list[int]) -> None:
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    wanted = text[: min(ends)[1]] if ends else text
    filter_ = StopText(stops)
    given_out = ""
    for piece in cut(text, places):
        for character in piece:  # as long as a token is one piece, characters are the finest there is
            if not filter_.stopped:
                given_out += filter_.push(character)
        assert wanted.startswith(given_out)
    given_out += "" if filter_.stopped else filter_.end()
    assert given_out == wanted and filter_.stopped == bool(ends)


@given(st.lists(st.integers(0, 999), max_size=20), st.booleans())
def test_calls_are_found_however_the_text_comes(places: list[int], alone: bool) -> None:
    text = ("" if alone else "Let me see: <｜tool ") + spelled(CALLS)
    parser, said, calls = CallParser(), "", list[ToolCall]()
    for piece in cut(text, places):
        more, found = parser.push(piece)
        said, calls = said + more, calls + found
    said += parser.end()
    assert said == ("" if alone else "Let me see: <｜tool ")
    assert [(call.name, call.arguments) for call in calls] == [(call.name, call.arguments) for call in CALLS]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "no calls",
        "<｜tool▁calls▁beg",
        "<｜tool▁calls▁begin｜>",
        "a<｜tool▁calls▁begin｜>nonsense<｜tool▁call▁end｜>b",
        spelled(CALLS)[:60],
        spelled(CALLS).replace("```json", "```"),
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    for size in (1, 7, 1000):
        parser, said = CallParser(), ""
        for start in range(0, len(text), size):
            more, found = parser.push(text[start : start + size])
            said += more
            assert not found
        assert said + parser.end() == text and not parser.found


@given(st.lists(st.integers(0, 287), max_size=40), st.lists(st.text(min_size=1, max_size=2), max_size=2))
def test_the_tokens_of_an_answer_are_given_with_its_text(ids: list[int], stops: list[str]) -> None:
    ids = [index for index in ids if index != TOKENIZER.eos_id]
    choice, said = Choice(AnswerStream(CHAT), TOKENIZER.eos_id, stops, None), Said()
    for index in ids:
        said.add(choice.push(Token(index, -1.0)))
    said.add(choice.end("length"))
    whole = CHAT.text(ids)
    given_ids = [token.id for token, _ in said.tokens]
    assert given_ids == ids[: len(given_ids)] and whole.startswith(said.text)
    if choice.finish == "length":
        assert said.text == whole and given_ids == ids
    else:
        assert choice.finish == "stop" and not any(stop in said.text for stop in stops)
        assert all(offset < len(said.text) for _, offset in said.tokens)


def conversation(*messages: dict[str, Any]) -> list[Any]:
    return MESSAGES.validate_python(list(messages))


def v2() -> ChatFormat:
    text = json.dumps(TOKENIZER.document, ensure_ascii=False)
    return ChatFormat(Tokenizer(json.loads(text.replace(USER, "<one>").replace(ASSISTANT, "<two>"))))


def test_messages_are_rendered_as_the_model_was_taught() -> None:
    for chat in (CHAT, v2()):
        taught = [Message("system", "Be kind.\n\nBe brief."), Message("user", "a\n\nb"), Message("assistant", "c")]
        taught.append(Message("user", "d"))
        messages = conversation(
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "d"},
        )
        assert chat_prompt(chat, messages, []) == chat.prompt(taught)


def test_a_conversation_with_calls_has_the_form_of_the_release() -> None:
    messages = conversation(
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    )
    text = TOKENIZER.decode(chat_prompt(CHAT, messages, []))
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
        "add\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜><｜tool▁outputs▁begin｜>"
        "<｜tool▁output▁begin｜>4<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
    )
    later = conversation({"role": "assistant", "content": "Four."}, {"role": "user", "content": "And?"})
    longer = TOKENIZER.decode(chat_prompt(CHAT, [*messages, *later], []))
    assert longer == text + "Four.<｜end▁of▁sentence｜><｜User｜>And?<｜Assistant｜>"
    plain = conversation({"role": "user", "content": "<｜tool▁calls▁begin｜>"})
    assert TOKENIZER.special["<｜tool▁calls▁begin｜>"] not in chat_prompt(CHAT, plain, [])
    tool = Tool(type="function", function=Function(name="add"))
    assert '"name": "add"' in TOKENIZER.decode(chat_prompt(CHAT, plain, [tool]))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "I begin"}],
        [{"role": "system", "content": "alone"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "tool_call_id": "1"}],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]},
            {"role": "user", "content": "b"},
        ],
    ],
)
def test_conversations_that_no_model_was_taught_are_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(Refused) as refused:
        chat_prompt(CHAT, conversation(*messages), [])
    assert refused.value.status == 400


PERSON = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "Bo 你"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def drawn(grammars: Grammars, grammar: str, seed: int, most: int = 400) -> str:
    """What chance says under a grammar."""
    constraint, chance, ids = grammars.constraint(grammar)(), random.Random(seed), list[int]()
    while len(ids) < most:
        allowed = constraint.allowed()
        assert allowed is not None and allowed.dtype == torch.bool and allowed.shape == (300,)
        ids.append(int(chance.choice(torch.nonzero(allowed).flatten().tolist())))
        if ids[-1] == TOKENIZER.eos_id:
            return TOKENIZER.decode(ids[:-1])
        constraint.take(ids[-1])
    raise AssertionError("it never ends")


def test_chance_itself_writes_what_fits_the_grammar() -> None:
    """Also where the head has more rows than the tokenizer has ids."""
    grammars = Grammars(TOKENIZER, 300)
    tools = {"add": PERSON, "now": {"type": "object", "properties": {}, "additionalProperties": False}}
    for seed in range(10):
        validate(json.loads(drawn(grammars, grammars.json(PERSON), seed)), PERSON)
        parser = CallParser()
        text, calls = parser.push(drawn(grammars, grammars.calls(tools, False), seed))
        assert text + parser.end() == "" and len(calls) == 1
        validate(json.loads(calls[0].arguments), tools[calls[0].name])


@pytest.mark.parametrize("special", [True, False])
def test_a_text_may_end_in_calls_that_fit_their_functions(special: bool) -> None:
    document = json.dumps(TOKENIZER.document, ensure_ascii=False)
    tokenizer = TOKENIZER if special else Tokenizer(json.loads(document.replace("<｜tool", "<｜other")))
    grammars = Grammars(tokenizer, 300)
    begin = grammars.constraint(grammars.text_with_calls({"add": PERSON}, True))
    for seed, opened in enumerate((False, True, True)):
        constraint, chance = begin(), random.Random(seed)
        ids = tokens_of(tokenizer, ["Wait: <｜tool▁calls ", *([Marker(CALLS_BEGIN)] if opened else [])])
        for index in ids:
            assert constraint.allowed()[index]
            constraint.take(index)
        assert constraint.allowed()[tokenizer.eos_id] == (not opened)
        while opened and ids[-1] != tokenizer.eos_id:
            ids.append(int(chance.choice(torch.nonzero(constraint.allowed()).flatten().tolist())))
            constraint.take(ids[-1])
        parser = CallParser()
        text, calls = parser.push(tokenizer.decode(ids))
        assert text + parser.end() == "Wait: <｜tool▁calls " and bool(calls) == opened
        for call in calls:
            validate(json.loads(call.arguments), PERSON)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"not": {}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "string", "pattern": "("},
    ],
)
def test_a_form_that_no_answer_can_have_is_refused(schema: dict[str, Any]) -> None:
    grammars = Grammars(TOKENIZER, 288)
    with pytest.raises(Impossible):
        grammars.constraint(grammars.json(schema))


def test_a_form_may_hold_itself() -> None:
    grammars = Grammars(TOKENIZER, 288)
    constraint = grammars.constraint(grammars.json({"anyOf": [{"$ref": "#"}, {"type": "integer"}]}))()
    assert 0 < int(constraint.allowed().sum()) < 288
