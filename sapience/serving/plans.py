"""From a request's body to what the engine is asked and the form in which it is answered.

Everything that a client can mend is found here, before anything waits: a prompt that does not fit, a form that no answer
can have, a choice of functions without functions.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sapience.corpus.tokenizer import TextStream
from sapience.inference.requests import Constraint, Sampling
from sapience.serving.answering import AnswerStream
from sapience.serving.answers import Choice
from sapience.serving.drawing import Wanted
from sapience.serving.grammar import ANY_OBJECT, Impossible
from sapience.serving.limits import Limits
from sapience.serving.models import Speaker
from sapience.serving.prompts import chat_prompt
from sapience.serving.protocol import ChatBody, CompletionBody, Drawn, NamedTool, ObjectFormat, SchemaFormat, Tool
from sapience.serving.refusals import Refused
from sapience.serving.replies import ChatForm, CompletionForm, Form
from sapience.serving.tool_calls import CallParser

COMPLETION_TOKENS = 16
"""What the completions API gives where nobody says how long an answer may be."""


@dataclass(frozen=True)
class Plan:
    """What one request comes to."""

    wanted: Wanted
    choices: list[Choice]
    form: Form
    stream: bool
    tells_usage: bool


def chat_plan(speaker: Speaker, body: ChatBody, limits: Limits, began: float) -> Plan:
    """Raises Refused for what cannot be answered."""
    chat = speaker.model.chat
    if body.top_logprobs and not body.logprobs:
        raise Refused(400, "top_logprobs needs logprobs to be true", "top_logprobs", "invalid_value")
    tools = _tools(body)
    with tokenized("messages"):
        prompt = chat_prompt(chat, body.messages, tools)
    wanted = _wanted(
        speaker,
        body,
        [prompt],
        body.max_completion_tokens or body.max_tokens or limits.answer_tokens,
        body.top_logprobs or 0,
        _constraint(speaker, body, tools),
        limits,
        began,
    )
    choices = [
        Choice(AnswerStream(chat), chat.tokenizer.eos_id, body.stops, CallParser() if tools else None)
        for _ in range(wanted.answers)
    ]
    form = ChatForm(chat.tokenizer, body.model, body.tells_usage, bool(body.logprobs))
    return Plan(wanted, choices, form, bool(body.stream), body.tells_usage)


def completion_plan(speaker: Speaker, body: CompletionBody, limits: Limits, began: float) -> Plan:
    """Raises Refused for what cannot be answered."""
    tokenizer = speaker.model.chat.tokenizer
    if body.echo:
        raise Refused(400, "echo is not served: put the prompt before the answer yourself", "echo", "unsupported_value")
    if body.suffix:
        raise Refused(400, "suffix is not served: leave it out", "suffix", "unsupported_value")
    if body.best_of not in (None, body.n or 1):
        raise Refused(
            400, "best_of is not served: leave it out, and choose among n answers", "best_of", "unsupported_value"
        )
    room = body.max_tokens or COMPLETION_TOKENS
    prompts = [_prompt_tokens(speaker, prompt) for prompt in _prompts(body)]
    wanted = _wanted(speaker, body, prompts, room, body.logprobs or 0, None, limits, began)
    choices = [
        Choice(TextStream(tokenizer, continued=True), tokenizer.eos_id, body.stops, None) for _ in range(wanted.answers)
    ]
    form = CompletionForm(tokenizer, body.model, body.tells_usage, body.logprobs is not None)
    return Plan(wanted, choices, form, bool(body.stream), body.tells_usage)


@contextmanager
def tokenized(param: str) -> Iterator[None]:
    """Raises Refused for a text that the tokenizer gives up on: a million times the same letter, for example."""
    try:
        yield
    except ValueError as error:
        raise Refused(400, f"the text cannot be cut into tokens: {error}"[:300], param, "invalid_value") from None


def _prompts(body: CompletionBody) -> Sequence[str | list[int]]:
    """One or several; a list of numbers is one."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    listed: Sequence[str | int | list[int]] = body.prompt
    tokens = [one for one in listed if isinstance(one, int)]
    return [tokens] if tokens else [one for one in listed if not isinstance(one, int)]


def _prompt_tokens(speaker: Speaker, prompt: str | list[int]) -> list[int]:
    tokenizer = speaker.model.chat.tokenizer
    if isinstance(prompt, str):
        with tokenized("prompt"):
            return [tokenizer.bos_id, *tokenizer.encode(prompt)]
    if max(prompt) >= speaker.vocabulary:
        raise Refused(
            400, f"token {max(prompt)} is none of the model's: they go from 0 to {speaker.vocabulary - 1}", "prompt",
            "invalid_value",
        )  # fmt: skip
    return prompt


def _wanted(
    speaker: Speaker,
    body: Drawn,
    prompts: list[list[int]],
    tokens: int,
    alternatives: int,
    constraint: Callable[[], Constraint] | None,
    limits: Limits,
    began: float,
) -> Wanted:
    """What both APIs ask of the engine. An answer longer than the context has room for ends at the context's end."""
    each = body.n or 1
    if each * len(prompts) > limits.choices:
        raise Refused(
            400, f"{each * len(prompts)} answers are more than one request gets: ask for at most {limits.choices}", "n",
            "invalid_value",
        )  # fmt: skip
    if tokens > limits.answer_tokens:
        raise Refused(
            400, f"an answer of {tokens} tokens is longer than this server draws: ask for at most {limits.answer_tokens}",
            "max_tokens", "invalid_value",
        )  # fmt: skip
    context = speaker.model.context
    longest = min(context - 1, limits.prompt_tokens or context)
    for prompt in prompts:
        if len(prompt) > longest:
            raise Refused(
                400,
                f"This model's maximum context length is {context} tokens, of which a prompt may have {longest}; yours has "
                f"{len(prompt)}: shorten it",
                "messages" if isinstance(body, ChatBody) else "prompt",
                "context_length_exceeded",
            )
    seed = secrets.randbits(32) if body.seed is None else body.seed
    return Wanted(
        prompts,
        each,
        [min(tokens, context - len(prompt)) for prompt in prompts],
        _sampling(speaker, body),
        seed,
        alternatives,
        constraint,
        bool(body.stops) and each > 1,
        began,
    )


def _sampling(speaker: Speaker, body: Drawn) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    bias = {}
    for text, value in (body.logit_bias or {}).items():
        token = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else speaker.vocabulary
        if token >= speaker.vocabulary:
            raise Refused(
                400, f"logit_bias has a key that is no token of the model: {text[:40]!r}", "logit_bias", "invalid_value"
            )
        bias[token] = float(value)
    try:
        return Sampling(**given, logit_bias=bias)
    except ValueError as error:
        raise Refused(400, str(error), None, "invalid_value") from None


def _tools(body: ChatBody) -> list[Tool]:
    """The functions that may be called. Raises Refused for a choice that there is not."""
    tools = body.tools or []
    if len({tool.function.name for tool in tools}) < len(tools):
        raise Refused(400, "two functions have the same name", "tools", "invalid_value")
    choice = body.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, NamedTool):
        named = choice.function.name
        if named not in {tool.function.name for tool in tools}:
            raise Refused(
                400, f"tool_choice names a function that is not among tools: {named}", "tool_choice", "invalid_value"
            )
    elif choice == "required" and not tools:
        raise Refused(400, "tool_choice is required, and there are no tools", "tool_choice", "invalid_value")
    return tools


def _constraint(speaker: Speaker, body: ChatBody, tools: Sequence[Tool]) -> Callable[[], Constraint] | None:
    """The form that the answer must have."""
    grammars = speaker.grammars
    schema: dict[str, Any] | None = None
    if isinstance(body.response_format, ObjectFormat):
        schema = dict(ANY_OBJECT)
    elif isinstance(body.response_format, SchemaFormat):
        schema = body.response_format.json_schema.schema_
    parameters = {tool.function.name: tool.function.parameters or dict(ANY_OBJECT) for tool in tools}
    if isinstance(body.tool_choice, NamedTool):
        parameters = {body.tool_choice.function.name: parameters[body.tool_choice.function.name]}
    several = body.parallel_tool_calls is not False
    if tools and (body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)):
        grammar, param = grammars.calls(parameters, several), "tools"
    elif schema is None and not any(tool.function.strict for tool in tools):
        return None
    elif schema is None:
        parameters |= {tool.function.name: dict(ANY_OBJECT) for tool in tools if not tool.function.strict}
        grammar, param = grammars.text_with_calls(parameters, several), "tools"
    elif tools:
        grammar, param = grammars.calls(parameters, several, schema), "response_format"
    else:
        grammar, param = grammars.json(schema), "response_format"
    try:
        return grammars.constraint(grammar)
    except Impossible as error:
        raise Refused(400, f"no answer can have this form: {error}", param, "invalid_schema") from None
