"""A conversation grows, is taken back, and fits a model's context by losing its oldest turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.tokenizer import train_tokenizer
from sapience.recipe import UserError
from sapience.serving.conversation import Conversation

CHAT = ChatFormat(train_tokenizer(["Ada finds a boat in the garden. " * 20], 300, 1))


def talk(*texts: str, system: str = "") -> Conversation:
    conversation = Conversation(system)
    for place, text in enumerate(texts):
        (conversation.answer if place % 2 else conversation.ask)(text)
    return conversation


def test_questions_and_answers_come_in_turn() -> None:
    conversation = talk("one", "two", "three")
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "user"]
    with pytest.raises(ValueError, match="waits for its answer"):
        conversation.ask("four")
    with pytest.raises(ValueError, match="no question"):
        talk("one", "two").answer("again")


def test_what_is_taken_back() -> None:
    conversation = talk("one", "two", "three", "four")
    assert conversation.reopen() and conversation.question == "three" and len(conversation.turns) == 3
    assert conversation.reopen() and len(conversation.turns) == 3
    assert conversation.undo() and [turn.content for turn in conversation.turns] == ["one", "two"]
    assert conversation.undo() and conversation.turns == [] and conversation.question is None
    assert not conversation.undo() and not conversation.reopen()


def test_a_failure_leaves_the_conversation_as_it_was() -> None:
    conversation = talk("one", "two")
    with pytest.raises(KeyboardInterrupt), conversation.unless_it_fails():
        conversation.ask("three")
        raise KeyboardInterrupt
    assert conversation == talk("one", "two")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(0, 20), st.integers(20, 90))
def test_the_longest_end_of_the_conversation_that_fits_is_shown_behind_the_system_message(
    lengths: list[int], system: int, longest: int
) -> None:
    """The oracle tries every number of left-out questions; texts differ in length, so that no two ends are alike."""
    lengths = lengths[: len(lengths) - 1 + len(lengths) % 2]
    conversation = talk(*("boat " * length + "." for length in lengths), system="Be kind. " * system)
    before = [Message("system", conversation.system)] if system else []
    ends = [CHAT.prompt([*before, *conversation.turns[start:]]) for start in range(0, len(lengths), 2)]
    fitting = [end for end in ends if len(end) <= longest]
    if not fitting:
        with pytest.raises(UserError, match=f"tokens, and the model's context has room for {longest}"):
            conversation.fitted(CHAT, longest)
        return
    fitted = conversation.fitted(CHAT, longest)
    assert fitted.tokens == max(fitting, key=len) and ends[fitted.left_out] == fitted.tokens
    assert len(conversation.turns) == len(lengths)
