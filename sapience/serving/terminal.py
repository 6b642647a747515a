"""Talking to a model in a terminal, or through a pipe.

Answers are all that goes to standard output; notices go to standard error. From a pipe every line is a question, and
nothing but answers is written; at a terminal there is a prompt, and the answers bear the model's name.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sapience.recipe.errors import UserError
from sapience.serving.answering import Settings, answer, load_chat_model
from sapience.serving.conversation import Conversation
from sapience.serving.printable import json_line, printable
from sapience.serving.talk import Talk, notices_of


def talk(folder: Path, system: str, settings: Settings, say: Callable[[str], None]) -> None:
    """Read lines until they end or /quit comes."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    model = load_chat_model(folder)
    if interactive:
        say(f"talking to {model.name}; /help lists the commands, Ctrl-D ends")
    session = Talk(model, Conversation(system), settings, _write, lambda text: say(printable(text)), interactive)
    read = _typed if interactive else _piped
    with _termination_ends():
        going = True
        while going:
            try:
                line = read()
                going = line is not None and session.take(line)
            except KeyboardInterrupt:
                if not interactive:
                    raise
                say("(Ctrl-D or /quit ends)")
    if interactive:
        _write("\n")


def ask_once(
    folder: Path, system: str, message: str, settings: Settings, as_json: bool, say: Callable[[str], None]
) -> None:
    """Print one answer, or one JSON object about it. Raises UserError for a message without a word."""
    if not message.strip():
        raise UserError("the message is empty: write what is to be asked, or leave --message out to talk")
    conversation = Conversation(system)
    conversation.ask(message)
    model = load_chat_model(folder)
    for notice in notices_of(model):
        say(notice)
    said = answer(model, conversation, settings, (lambda _: None) if as_json else _write)
    if said.stopped:
        raise KeyboardInterrupt
    if as_json:
        record = {"prompt": message, "answer": said.text, "finished": said.finished, "tokens": said.tokens}
        print(json_line(record))
    else:
        print()


def _write(text: str) -> None:
    print(printable(text), end="", flush=True)


def _typed() -> str | None:
    """A line typed at the terminal, with history where the system has readline; None at its end."""
    with suppress(ImportError):
        import readline  # noqa: F401
    try:
        return input("you> ")
    except EOFError:
        return None


def _piped() -> str | None:
    """A line of a pipe or file; None at its end. Bytes that are no UTF-8 become U+FFFD."""
    line = (
        sys.stdin.buffer.readline().decode("utf-8", "replace") if hasattr(sys.stdin, "buffer") else sys.stdin.readline()
    )
    return line.rstrip("\r\n") if line else None


@contextmanager
def _termination_ends() -> Iterator[None]:
    """Ctrl-C ends an answer, but a request to terminate ends the program, in whatever it is doing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
