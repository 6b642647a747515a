"""The API as OpenAI's own client sees it, over a script and over the real engine."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_server import (
    CHAT,
    CONTEXT,
    TOKENIZER,
    FakeEngine,
    Running,
    counts,
    fake_speaker,
    real_speaker,
    running,
    says,
    until,
)
from jsonschema import validate

from sapience.corpus.chat import Message
from sapience.inference.generate import generate
from sapience.serving.tool_calls import ToolCall, calls_written, tokens_of

HI: list[Any] = [{"role": "user", "content": "Ada finds"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Sums.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}}


@pytest.fixture(scope="module")
def real() -> Iterator[Running]:
    with running(real_speaker()) as server:
        yield server


@pytest.fixture(scope="module")
def counting() -> Iterator[Running]:
    with running(fake_speaker(FakeEngine(counts))) as server:
        yield server


def streamed(stream: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    """Texts and ends by answer, and what was used."""
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (said or "")
            if choice.finish_reason:
                assert choice.index not in ends
                ends[choice.index] = choice.finish_reason
    return texts, ends, usage


def test_an_answer_is_the_one_that_the_model_gives(real: Running) -> None:
    reply = real.client().chat.completions.create(model="tiny", messages=HI, temperature=0, max_tokens=30)
    prompt = CHAT.prompt([Message("user", "Ada finds")])
    [drawn] = generate(real.speaker.model.network, [prompt], 30, temperature=0, stop_ids={TOKENIZER.eos_id}, seed=0)
    choice = reply.choices[0]
    assert choice.message.content == CHAT.text(drawn.tokens) and choice.message.role == "assistant"
    assert choice.finish_reason == ("stop" if drawn.finished else "length")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(prompt), len(drawn.tokens))
    assert reply.model == "tiny" and reply.id.startswith("chatcmpl-")


def test_pieces_together_are_the_whole_answer(real: Running) -> None:
    client = real.client()
    for n, stop in ((1, None), (3, None), (3, ["a", "e", "\x1d"])):
        wish: Any = {"model": "tiny", "messages": HI, "seed": 7, "n": n, "max_tokens": 40, "stop": stop}
        whole = client.chat.completions.create(**wish)
        again = client.chat.completions.create(**wish)
        assert [one.message.content for one in whole.choices] == [one.message.content for one in again.choices]
        stream = client.chat.completions.create(**wish, stream=True, stream_options={"include_usage": True})
        texts, ends, usage = streamed(stream)
        assert [texts[i] for i in range(n)] == [one.message.content for one in whole.choices]
        assert [ends[i] for i in range(n)] == [one.finish_reason for one in whole.choices]
        assert usage.completion_tokens == whole.usage.completion_tokens
        assert usage.prompt_tokens == whole.usage.prompt_tokens >= usage.prompt_tokens_details.cached_tokens
        assert n == 1 or len(set(texts.values())) == n
        assert not any(mark in text for text in texts.values() for mark in stop or [])
    other = client.chat.completions.create(model="tiny", messages=HI, seed=8, max_tokens=40)
    assert other.choices[0].message.content != whole.choices[0].message.content


def test_completions_of_texts_and_tokens(real: Running) -> None:
    client = real.client()
    wish: Any = {"model": "tiny", "seed": 3, "max_tokens": 12}
    texts = client.completions.create(prompt=["Ada", "finds"], n=2, **wish)
    assert [one.index for one in texts.choices] == [0, 1, 2, 3]
    ids = [[TOKENIZER.bos_id, *TOKENIZER.encode(text)] for text in ("Ada", "finds")]
    tokens = client.completions.create(prompt=ids, n=2, **wish)
    assert [one.text for one in tokens.choices] == [one.text for one in texts.choices]
    alone = client.completions.create(prompt=ids[1], **wish)
    assert alone.choices[0].text == texts.choices[2].text
    pieces, ends, _ = streamed(client.completions.create(prompt=["Ada", "finds"], n=2, stream=True, **wish))
    assert [pieces[i] for i in range(4)] == [one.text for one in texts.choices]
    assert [ends[i] for i in range(4)] == [one.finish_reason for one in texts.choices]
    assert client.completions.create(model="tiny", prompt="").usage.completion_tokens <= 16


def test_log_probabilities_of_both_apis(real: Running) -> None:
    client = real.client()
    wish: Any = {"model": "tiny", "seed": 3, "max_tokens": 12, "temperature": 0}
    chat = client.chat.completions.create(messages=HI, logprobs=True, top_logprobs=3, **wish)
    content = chat.choices[0].logprobs.content
    said = b"".join(bytes(entry.bytes) for entry in content)
    assert said.decode("utf-8", "replace") == chat.choices[0].message.content
    for entry in content:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-4)
    stream = client.chat.completions.create(messages=HI, logprobs=True, top_logprobs=3, stream=True, **wish)
    pieces = [entry for chunk in stream for one in chunk.choices if one.logprobs for entry in one.logprobs.content]
    assert [piece.bytes for piece in pieces] == [entry.bytes for entry in content]
    assert [piece.logprob for piece in pieces] == pytest.approx([entry.logprob for entry in content], abs=1e-4)
    text = client.completions.create(prompt="Ada", logprobs=2, **wish).choices[0]
    assert len(text.logprobs.tokens) == len(text.logprobs.token_logprobs) == len(text.logprobs.text_offset)
    assert all(len(best) >= 1 for best in text.logprobs.top_logprobs)
    for offset, token in zip(text.logprobs.text_offset, text.logprobs.tokens, strict=True):
        assert "\ufffd" in token or text.text[offset:].removeprefix("\ufffd").startswith(token)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_never_shown(counting: Running, stream: bool) -> None:
    """ "11 12 13 …": ` 13` is three tokens or more, none of which comes alone."""
    client = counting.client()
    wish: Any = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stop": [" 13", "never"], "n": 2}
    if stream:
        texts, ends, _ = streamed(client.chat.completions.create(**wish, stream=True))
    else:
        reply = client.chat.completions.create(**wish)
        texts = {one.index: one.message.content for one in reply.choices}
        ends = {one.index: one.finish_reason for one in reply.choices}
    assert texts == dict.fromkeys((0, 1), "x 0 1 2 3 4 5 6 7 8 9 10 11 12") and ends == dict.fromkeys((0, 1), "stop")
    until(lambda: counting.engine.running == 0)


def test_sampling_reaches_the_engine(counting: Running) -> None:
    given: list[Any] = []
    submit = counting.engine.submit
    counting.engine.submit = lambda request: given.append(request) or submit(request)  # type: ignore[method-assign]
    try:
        counting.client().chat.completions.create(
            model="tiny", messages=HI, temperature=0.5, top_p=0.25, presence_penalty=1, frequency_penalty=-1, seed=-1,
            logit_bias={"65": 5}, max_completion_tokens=3, extra_body={"top_k": 7, "min_p": 0.125, "repetition_penalty": 2},
        )  # fmt: skip
    finally:
        del counting.engine.submit
    sampling = given[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 7, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 2)
    assert sampling.logit_bias == {65: 5.0} and given[0].limit == 3 and given[0].seeds[0] >= 0


def test_what_was_cached_and_drafted_is_told(counting: Running) -> None:
    """Five tokens drafted and four accepted a request, of which two are made where one answer may end before the other."""
    for stop, times in ((None, 1), (["never"], 2)):
        wish: Any = {"model": "tiny", "messages": HI, "n": 2, "max_tokens": 5, "stop": stop}
        stream = counting.client().chat.completions.create(**wish, stream=True, stream_options={"include_usage": True})
        for usage in (counting.client().chat.completions.create(**wish).usage, streamed(stream)[2]):
            details = usage.completion_tokens_details
            assert usage.prompt_tokens_details.cached_tokens == 2
            assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (4 * times, times)
            assert usage.total_tokens == usage.prompt_tokens + 10


def test_functions_are_called_where_they_must_be(real: Running) -> None:
    client = real.client()
    named = {"type": "function", "function": {"name": "now"}}
    for choice, names in (("required", {"add", "now"}), (named, {"now"})):
        wish: Any = {"model": "tiny", "messages": HI, "tools": [ADD, NOW], "tool_choice": choice, "seed": 2}
        wish |= {"parallel_tool_calls": False, "temperature": 0.3, "logit_bias": {"9": 20}}
        reply = client.chat.completions.create(**wish)
        [call] = reply.choices[0].message.tool_calls
        assert reply.choices[0].finish_reason == "tool_calls" and reply.choices[0].message.content is None
        assert call.function.name in names
        parameters = {"add": ADD, "now": NOW}[call.function.name]["function"]["parameters"]
        validate(json.loads(call.function.arguments), parameters)
        deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**wish, stream=True)]
        [again] = [one for choice in deltas for one in choice.delta.tool_calls or []]
        assert (again.index, again.function) == (
            0,
            call.function,
        ) or again.function.arguments == call.function.arguments
        assert deltas[-1].finish_reason == "tool_calls" and not any(one.delta.content for one in deltas)
    answered = [
        *HI,
        reply.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "noon"},
    ]
    assert client.chat.completions.create(model="tiny", messages=answered, max_tokens=2).usage.completion_tokens >= 1


def test_functions_are_called_where_the_model_wants_to() -> None:
    calls = [ToolCall("add", '{"a": 1}'), ToolCall("add", '{"a": 2}')]
    tokens = [*TOKENIZER.encode("Let me see."), *tokens_of(TOKENIZER, calls_written(calls))]
    with running(fake_speaker(FakeEngine(lambda prompt, seed: tokens))) as server:
        client = server.client()
        choice = client.chat.completions.create(model="tiny", messages=HI, tools=[ADD]).choices[0]
        assert choice.message.content == "Let me see." and choice.finish_reason == "tool_calls"
        assert [call.function.arguments for call in choice.message.tool_calls] == ['{"a": 1}', '{"a": 2}']
        found = []
        for chunk in client.chat.completions.create(model="tiny", messages=HI, tools=[ADD], stream=True):
            found += chunk.choices[0].delta.tool_calls or []
        assert [(call.index, call.function.arguments) for call in found] == [(0, '{"a": 1}'), (1, '{"a": 2}')]
        plain = client.chat.completions.create(model="tiny", messages=HI, tools=[ADD], tool_choice="none").choices[0]
        wrong = [{"type": "function", "function": ADD["function"] | {"parameters": {"not": {}}, "strict": True}}]
        with pytest.raises(openai.BadRequestError, match="no answer can have this form"):
            client.chat.completions.create(model="tiny", messages=HI, tools=wrong)
        strict: Any = [{"type": "function", "function": ADD["function"] | {"strict": True}}]
        choice = client.chat.completions.create(model="tiny", messages=HI, tools=strict).choices[0]
        assert [call.function.arguments for call in choice.message.tool_calls] == ['{"a": 1}', '{"a": 2}']
        assert plain.message.tool_calls is None and "add" in plain.message.content and plain.finish_reason == "stop"


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "Bo"]},
        "old": {"type": "boolean"},
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "old", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("fake", [False, True])
def test_json_by_a_schema(real: Running, fake: bool) -> None:
    wish: Any = {"model": "tiny", "messages": HI, "n": 4, "seed": 5}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}

    def check(server: Running) -> None:
        client = server.client()
        for choice in client.chat.completions.create(**wish, response_format=form).choices:
            assert choice.finish_reason == "stop"
            validate(json.loads(choice.message.content), SCHEMA)
        texts, _, _ = streamed(client.chat.completions.create(**wish, response_format=form, stream=True))
        for text in texts.values():
            validate(json.loads(text), SCHEMA)
        either = client.chat.completions.create(**wish, response_format=form, tools=[NOW])
        for choice in either.choices:
            if choice.message.tool_calls is None:
                validate(json.loads(choice.message.content), SCHEMA)
        bias = {str(TOKENIZER.encode("}")[0]): 30}
        any_ = client.chat.completions.create(
            model="tiny", messages=HI, response_format={"type": "json_object"}, logit_bias=bias, seed=1
        )
        assert fake or isinstance(json.loads(any_.choices[0].message.content), dict)

    if fake:
        with running(fake_speaker(FakeEngine(says("{}")))) as server:
            check(server)
    else:
        check(real)


REFUSED: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"model": "nobody"}, "model", "model_not_found"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": [{"role": "user", "content": "Ada " * CONTEXT}]}, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, None),
    ({"messages": [{"role": "critic", "content": "x"}]}, None, None),
    ({"temperature": -1}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 10**9}, "max_tokens", "invalid_value"),
    ({"n": 1000}, "n", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, None, None),
    ({"stop": ""}, None, None),
    ({"logit_bias": {"288": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"extra_body": {"functions": []}}, "functions", "unknown_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [ADD, ADD]}, "tools", "invalid_value"),
    ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "invalid_value"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
     "response_format", "invalid_schema"),
    ({"response_format": {"type": "xml"}}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "code"), REFUSED)
def test_refusals_have_openai_s_form(
    counting: Running, change: dict[str, Any], param: str | None, code: str | None
) -> None:
    wish: Any = {"model": "tiny", "messages": HI, "max_tokens": 4}
    with pytest.raises(openai.APIStatusError) as error:
        counting.client().chat.completions.create(**(wish | change))
    assert error.value.status_code == (404 if code == "model_not_found" else 400)
    assert error.value.type == "invalid_request_error" and error.value.body["message"]
    assert param is None or (error.value.param, error.value.code) == (param, code)


@pytest.mark.parametrize("change", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}, {"prompt": [999]}, {"prompt": []}])
def test_what_completions_do_not_do(counting: Running, change: dict[str, Any]) -> None:
    wish: Any = {"model": "tiny", "prompt": "Ada"}
    with pytest.raises(openai.BadRequestError) as error:
        counting.client().completions.create(**(wish | change))
    assert error.value.param == next(iter(change))


def test_an_answer_ends_at_the_end_of_the_context(counting: Running) -> None:
    long: Any = [{"role": "user", "content": "x" * (CONTEXT - 20)}]
    reply = counting.client().chat.completions.create(model="tiny", messages=long, max_tokens=1000)
    assert reply.choices[0].finish_reason == "length" and reply.usage.total_tokens == CONTEXT


def test_models_are_listed_and_those_that_cannot_be_loaded_said(counting: Running) -> None:
    client = counting.client()
    assert [model.id for model in client.models.list()] == ["tiny", "tiny@broken"]
    assert client.models.retrieve("tiny@broken").id == "tiny@broken"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")
    with pytest.raises(openai.InternalServerError, match="cannot be loaded"):
        client.chat.completions.create(model="tiny@broken", messages=HI)
