"""What clients send: OpenAI's request bodies, as far as they are served.

Every field is of exactly its type. A field that OpenAI's API does not know, or that asks for what is not served here
(images, audio, a suffix), is an error rather than silently without effect; fields that only organise an account (`user`,
`metadata`, …) are taken and do nothing. `top_k`, `min_p` and `repetition_penalty` are extras, named as in other servers.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_STOPS = 4
MOST_ALTERNATIVES = 20
FUNCTION_NAME = "^[a-zA-Z0-9_-]{1,64}$"
LARGEST_WHOLE = 2**63 - 1

Stops = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_STOPS)]
)
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_WHOLE)]], Field(min_length=1, fail_fast=True)]


class Exact(BaseModel):
    """Exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lenient(BaseModel):
    """These fields, of exactly these types, and others that are not looked at: clients send back what they were given."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(Lenient):
    """A piece of a message; there are no others than text."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class CalledFunction(Lenient):
    """A function that the assistant called earlier."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    arguments: str


class Call(Lenient):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class SpokenMessage(Lenient):
    """What system, developer or user said."""

    role: Literal["system", "developer", "user"]
    content: Content


class AssistantMessage(Lenient):
    """What the assistant said or called."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[Call] | None = None


class ToolMessage(Lenient):
    """What a called function gave back."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


ChatMessage = Annotated[SpokenMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Exact):
    """A function that may be called."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Exact):
    """OpenAI's wrapping of a function."""

    type: Literal["function"]
    function: Function


class Named(Exact):
    """The name of a function."""

    name: str


class NamedTool(Exact):
    """The one function that must be called."""

    type: Literal["function"]
    function: Named


class JsonSchema(Exact):
    """The form of an answer."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Exact):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Exact):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Exact):
    """JSON of a form."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Exact):
    """What a stream says beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Drawn(Exact):
    """What both APIs say of how an answer is drawn; null is the default everywhere."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=LARGEST_WHOLE)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=LARGEST_WHOLE)] | None = None
    n: Annotated[int, Field(ge=1, le=LARGEST_WHOLE)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST_WHOLE - 1, le=LARGEST_WHOLE)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        """The strings that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(Drawn):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST_WHOLE)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: dict[str, Any] | None = None
    """Without effect: what it is for, speed, the model's own drafts do."""


class CompletionBody(Drawn):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
