"""Talking to a model in a terminal, or through a pipe.

Answers are all that goes to standard output; notices go to standard error. From a pipe every line is a question, and
nothing but answers is written; at a terminal there is a prompt, and the answers bear the model's name.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from sapience.recipe.errors import UserError
from sapience.serving.answering import ChatModel, Settings, answer, load_chat_model
from sapience.serving.conversation import Conversation
from sapience.serving.printable import json_line, printable
from sapience.serving.talk import Talk, notices_of

FENCE = '"""'
HISTORY = 1000
"""Lines that are remembered."""


def loader(draft: int, eight_bits: bool) -> Callable[[Path], ChatModel]:
    """Makes models ready with their engines, so that UserError is raised at once where they cannot draw like that."""

    def load(folder: Path) -> ChatModel:
        model = load_chat_model(folder, draft, eight_bits)
        model.engine  # noqa: B018
        return model

    return load


def talk(
    folder: Path, load: Callable[[Path], ChatModel], system: str, settings: Settings, say: Callable[[str], None]
) -> None:
    """Read lines until they end or /quit comes."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    model = load(folder)
    if interactive:
        say(f"talking to {model.name}; /help lists the commands, Ctrl-D ends")
    session = Talk(model, Conversation(system), settings, _write, lambda text: say(printable(text)), interactive, load)
    read = _typed if interactive else _piped
    with _termination_ends(), _history() if interactive else nullcontext():
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
    folder: Path,
    load: Callable[[Path], ChatModel],
    system: str,
    message: str,
    settings: Settings,
    as_json: bool,
    say: Callable[[str], None],
) -> None:
    """Print one answer, or one JSON object about it. Raises UserError for a message without a word."""
    if not message.strip():
        raise UserError("the message is empty: write what is to be asked, or leave --message out to talk")
    conversation = Conversation(system)
    conversation.ask(message)
    model = load(folder)
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
    """A question or command typed at the terminal; None at its end."""
    return whole(lambda prompt: _line(prompt))


def whole(line: Callable[[str], str | None]) -> str | None:
    """What may take several lines: one that ends in a backslash goes on, and what stands between lines of three quotation
    marks is one. `line` is given what to ask with; None from it ends everything, also in the middle."""
    first = line("you> ")
    if first is None:
        return None
    if first.strip() == FENCE:
        parts: list[str] = []
        while (more := line("...> ")) is not None and more.strip() != FENCE:
            parts.append(more)
        return "\n".join(parts)
    parts = [first]
    while parts[-1].endswith("\\"):
        parts[-1] = parts[-1][:-1]
        more = line("...> ")
        if more is None:
            break
        parts.append(more)
    return "\n".join(parts)


def _line(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        return None


@contextmanager
def _history() -> Iterator[None]:
    """Lines typed before can be had again with the arrow keys, those of earlier talks too, where the system has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "sapience" / "chat_history"
    readline.set_history_length(HISTORY)
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)  # what one asked is nobody else's business
            readline.write_history_file(path)


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
