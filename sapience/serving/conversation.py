"""A conversation while it grows: turns that can be taken back, and the part of it that fits a model's context.

Where a conversation has become too long, its oldest questions go, each with its answer; the system message stays. The
conversation itself forgets nothing: another model with a longer context is shown more of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sapience.corpus.chat import ChatFormat, Message
from sapience.recipe.errors import UserError


@dataclass(frozen=True)
class Fitted:
    """What a model is given."""

    tokens: list[int]
    left_out: int
    """Oldest questions, with their answers, for which there was no room."""


@dataclass
class Conversation:
    """A system message or none, then questions and answers in turn."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    @property
    def question(self) -> str | None:
        """What was asked last."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "user"), None)

    def ask(self, question: str) -> None:
        """A user's turn. Raises ValueError where the last question has no answer yet."""
        if self.turns and self.turns[-1].role == "user":
            raise ValueError("the last question waits for its answer")
        self.turns.append(Message("user", question))

    def answer(self, text: str) -> None:
        """The assistant's turn. Raises ValueError where nothing was asked."""
        if not self.turns or self.turns[-1].role != "user":
            raise ValueError("there is no question to answer")
        self.turns.append(Message("assistant", text))

    def reopen(self) -> bool:
        """Take the last answer back, so that the last question can be answered again; False where there is none."""
        if self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()
        return bool(self.turns)

    def undo(self) -> bool:
        """Take the last question back, and its answer; False where there is none."""
        return self.reopen() and bool(self.turns.pop())

    def new(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Whatever is done to the turns in here is undone where it ends in an exception."""
        before = list(self.turns)
        try:
            yield
        except BaseException:
            self.turns[:] = before
            raise

    def fitted(self, chat: ChatFormat, longest: int) -> Fitted:
        """The prompt for the last question, of at most `longest` tokens.

        Raises UserError where that question alone, behind the system message, is longer.
        """
        before = [Message("system", self.system)] if self.system else []
        tokens: list[int] = []
        for start in range(0, len(self.turns), 2):
            tokens = chat.prompt([*before, *self.turns[start:]])
            if len(tokens) <= longest:
                return Fitted(tokens, start // 2)
        what = "this question and the system message have" if before else "this question has"
        raise UserError(
            f"{what} {len(tokens)} tokens, and the model's context has room for {longest}: ask a shorter one"
            + (", or shorten the system message" if before else "")
        )
