"""Messages as clients send them to a prompt's tokens.

System and developer messages stand in front, joined, as DeepSeek-V3's template has them; neighbours of one role become one
message. What remains must alternate as the model was taught (`ChatFormat`). A conversation without function calls is
rendered by `ChatFormat` itself; calls and their results are put in between by `tool_calls`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sapience.corpus.chat import ChatFormat, Message, Role
from sapience.serving.protocol import AssistantMessage, ChatMessage, Content, Tool, ToolMessage
from sapience.serving.refusals import Refused
from sapience.serving.tool_calls import ToolCall, calls_written, described, outputs_written, tokens_of


@dataclass
class Turn:
    """What one side said: text, calls behind it, or what calls gave back."""

    role: str
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    outputs: tuple[str, ...] = ()


def chat_prompt(chat: ChatFormat, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[int]:
    """The tokens after which the assistant speaks. Raises Refused for a conversation that no model was taught."""
    spoken = [said_by(message.content) for message in messages if message.role in ("system", "developer")]
    if tools:
        spoken.append(described([tool.model_dump(exclude_none=True) for tool in tools]))
    system = [Message("system", "\n\n".join(spoken))] if spoken else []
    turns = _turns(messages)
    if not turns or turns[0].role != "user" or turns[-1].role not in ("user", "tool"):
        raise Refused(
            400,
            "a conversation begins with a user's message (system messages aside) and ends with a user's or a tool's: "
            f"the roles are {', '.join(message.role for message in messages)}",
            "messages",
            "invalid_value",
        )
    roles: dict[str, Role] = {"user": "user", "assistant": "assistant"}
    if all(turn.role in roles and not turn.calls for turn in turns):
        try:
            return chat.prompt([*system, *(Message(roles[turn.role], turn.text) for turn in turns)])
        except ValueError as error:
            raise Refused(400, str(error), "messages", "invalid_value") from None
    tokens = chat.conversation([*system, Message("user", turns[0].text)]).tokens
    for before, turn in pairwise(turns):
        tokens += _later(chat, turn, before)
    return tokens if turns[-1].role == "tool" else tokens + chat.assistant


def said_by(content: Content | None) -> str:
    """A message's text; parts follow one another."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _later(chat: ChatFormat, turn: Turn, before: Turn) -> list[int]:
    """A turn behind the first, as `ChatFormat` would render it."""
    if turn.role == "user":
        return chat.user + chat.tokenizer.encode(turn.text)
    if turn.role == "tool":
        return tokens_of(chat.tokenizer, outputs_written(turn.outputs))
    mark = [] if before.role == "tool" else chat.assistant
    if not turn.calls:
        return mark + chat.answer(turn.text)
    said = chat.answer(turn.text)[:-1] if turn.text else []
    return [*mark, *said, *tokens_of(chat.tokenizer, calls_written(turn.calls)), chat.tokenizer.eos_id]


def _turns(messages: Sequence[ChatMessage]) -> list[Turn]:
    turns: list[Turn] = []
    asked: set[str] = set()
    for place, message in enumerate(messages):
        last = turns[-1] if turns else None
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in asked:
                raise Refused(
                    400,
                    "a tool's message answers a call of the assistant's message before it: there is none with the id "
                    f"{message.tool_call_id}",
                    f"messages[{place}].tool_call_id",
                    "invalid_value",
                )
            asked.discard(message.tool_call_id)
            output = said_by(message.content)
            if last and last.role == "tool":
                last.outputs += (output,)
            else:
                turns.append(Turn("tool", outputs=(output,)))
        elif isinstance(message, AssistantMessage):
            calls = tuple(
                ToolCall(call.function.name, call.function.arguments, call.id) for call in message.tool_calls or ()
            )
            text = said_by(message.content)
            if not calls and message.content is None:
                raise Refused(
                    400,
                    "an assistant's message has content, tool_calls or both",
                    f"messages[{place}].content",
                    "invalid_value",
                )
            asked = {call.id for call in calls}
            if last and last.role == "assistant" and not last.calls:
                last.text, last.calls = "\n\n".join(filter(None, (last.text, text))), calls
            else:
                turns.append(Turn("assistant", text, calls))
        elif message.role == "user":
            if last and last.role == "user":
                last.text += "\n\n" + said_by(message.content)
            else:
                turns.append(Turn("user", said_by(message.content)))
    _check_answered(turns)
    return turns


def _check_answered(turns: Sequence[Turn]) -> None:
    """Raises Refused where calls have no results behind them, or results no calls."""
    for turn, after in pairwise(turns):
        if turn.calls and len(after.outputs) != len(turn.calls):
            raise Refused(
                400,
                "an assistant's message with tool_calls must be followed by a tool's message for each of its calls",
                "messages",
                "invalid_value",
            )
