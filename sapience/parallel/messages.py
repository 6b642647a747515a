"""What the ranks of a pipeline send each other, as data: it follows from the schedule, so that receiver and sender agree on
the order of all messages between them without a word."""

from dataclasses import dataclass
from typing import Literal

from sapience.parallel.schedule import Schedule


@dataclass(frozen=True)
class Message:
    """Hidden states that enter a stage, or the gradient of those that left it."""

    kind: Literal["hidden", "gradient"]
    stage: int
    """The one that is given it."""
    microbatch: int


def sent(schedule: Schedule, rank: int) -> list[tuple[int, Message]]:
    """All that a rank sends, in order, and to whom; what it keeps for itself is to itself. Of a pair the backward chunk's is
    the first, as its first piece is."""
    messages = []
    for action in schedule.actions[rank]:
        for chunk in reversed(action):
            message: Message | None = None
            if chunk.kind == "F" and chunk.stage + 1 < schedule.stages:
                message = Message("hidden", chunk.stage + 1, chunk.microbatch)
            elif chunk.kind in ("B", "I") and chunk.stage > 0:
                message = Message("gradient", chunk.stage - 1, chunk.microbatch)
            if message is not None:
                messages.append((schedule.rank_of(message.stage, chunk.microbatch), message))
    return messages


def received(schedule: Schedule, rank: int) -> dict[int, list[Message]]:
    """For every other rank what it sends to this one, in order."""
    incoming = {
        sender: [message for to, message in sent(schedule, sender) if to == rank]
        for sender in range(schedule.ranks)
        if sender != rank
    }
    return {sender: messages for sender, messages in incoming.items() if messages}
