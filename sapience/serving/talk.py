"""Talking to the models of a run: questions and commands in, pieces of answers and notices out; knows no terminal.

Switching between the stages of a run is what this is for: the conversation goes on with another model, which first answers
the last question again, so that one hears what a stage changed.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sapience.recipe.errors import UserError
from sapience.serving.answering import LARGEST_SEED, Answer, ChatModel, Settings, answer, load_chat_model
from sapience.serving.conversation import Conversation
from sapience.serving.run_models import reasoning_prompt, run_of, speaking_models

HELP = """\
/stage           list the models of this run
/stage NAME      go on with that stage's model, which answers the last question again
/system TEXT     put TEXT before the conversation; without TEXT, take it away
/new             begin a new conversation
/undo            take the last question and its answer back
/again           answer the last question once more, with other random numbers
/seed N          draw with these random numbers
/temperature X   0 takes the likeliest token every time
/top-k N         only so many of the likeliest tokens; 0: all
/top-p X         only the likeliest that together reach this probability
/min-p X         only those at least so likely beside the likeliest one
/tokens N        most tokens of an answer
/settings        what is set
/quit            end (or Ctrl-D); Ctrl-C ends an answer only
A line that ends in a backslash goes on in the next; between two lines of \"\"\" everything is one question.
A question that begins with a slash needs a blank before it."""


class Talk:
    """A conversation with the models of a run."""

    def __init__(
        self,
        model: ChatModel,
        conversation: Conversation,
        settings: Settings,
        write: Callable[[str], None],
        say: Callable[[str], None],
        interactive: bool,
        load: Callable[[Path], ChatModel] = load_chat_model,
    ) -> None:
        """`write` takes pieces of answers, `say` takes notices. `interactive`: answers bear the model's name, and
        Ctrl-C ends an answer only; else it ends the talk. `load` makes another stage's model ready."""
        self.model, self.conversation, self.settings = model, conversation, settings
        self._write, self._say, self._interactive, self._load = write, say, interactive, load
        self._told_left_out = False
        self._commands: dict[str, Callable[[str], None]] = {
            "stage": self._stage,
            "system": self._system,
            "new": self._new,
            "undo": self._undo,
            "again": self._again,
            "seed": self._setter("seed", int, "a whole number, such as /seed 7"),
            "temperature": self._setter("temperature", float, "a number, such as /temperature 0.7"),
            "top-k": self._setter("top_k", int, "a whole number, such as /top-k 50"),
            "top-p": self._setter("top_p", float, "a number, such as /top-p 0.9"),
            "min-p": self._setter("min_p", float, "a number, such as /min-p 0.05"),
            "tokens": self._setter("tokens", int, "a whole number, such as /tokens 500"),
            "settings": lambda _: self._say(self._set()),
            "help": lambda _: self._say(HELP),
        }
        self._say_what_it_is()

    def take(self, line: str) -> bool:
        """Act on one line: a command or a question. False where it ends the conversation.

        A question that gets no answer (no room for it, Ctrl-C before the first token) is as if it was never asked.
        """
        name, _, rest = line[1:].strip().partition(" ") if line.startswith("/") else ("", "", line)
        if name in ("quit", "exit"):
            return False
        try:
            with self.conversation.unless_it_fails():
                if not line.startswith("/"):
                    self._ask(rest.strip())
                elif name in self._commands:
                    self._commands[name](rest.strip())
                else:
                    self._say(
                        f"there is no command /{name}: /help lists them; to ask a question, put a blank before the slash"
                    )
        except UserError as error:
            self._say(str(error))
        return True

    def _ask(self, question: str) -> None:
        if question:
            self.conversation.ask(question)
            self._answer()

    def _answer(self) -> None:
        """Answer the last question."""
        if self._interactive:
            self._write(f"{self.model.name}> ")
        try:
            said = answer(self.model, self.conversation, self.settings, self._write)
        except UserError:
            self._write("\n" * self._interactive)
            raise
        self._write("\n")
        if said.stopped and not (self._interactive and said.tokens):
            raise KeyboardInterrupt
        self.conversation.answer(said.text)
        self._comment(said)

    def _comment(self, said: Answer) -> None:
        """What a reader would wonder about."""
        if said.stopped:
            self._say("(stopped)")
        elif not said.finished:
            self._say(f"(the limit ended this answer after {said.tokens} tokens)")
        if said.left_out and not self._told_left_out:
            self._told_left_out = True
            self._say(
                f"(the conversation is longer than this model's context of {self.model.context} tokens: from now on "
                "its oldest questions and answers are left out)"
            )

    def _say_what_it_is(self) -> None:
        for notice in notices_of(self.model):
            self._say(notice)

    def _stage(self, name: str) -> None:
        run = run_of(self.model.folder)
        if run is None:
            raise UserError(f"{self.model.folder} is a model of its own, not one of a run: there is no other stage")
        models = speaking_models(run)
        if not name:
            current = self.model.name
            self._say("\n".join(f"{'*' if stage == current else ' '} {stage}" for stage in models))
            return
        if name not in models:
            raise UserError(f"{run} has no model of stage {name}: choose from {', '.join(models)}")
        self.model = self._load(models[name])
        self._told_left_out = False
        self._say(f"now talking to {self.model.name}")
        self._say_what_it_is()
        if self.conversation.reopen():
            self._answer()

    def _system(self, text: str) -> None:
        self.conversation.system = text
        self._say("the system message is set" if text else "there is no system message now")

    def _new(self, _: str) -> None:
        self.conversation.new()
        self._told_left_out = False
        self._say("a new conversation" + ("; the system message stays" if self.conversation.system else ""))

    def _undo(self, _: str) -> None:
        undone = self.conversation.undo()
        last = self.conversation.question
        where = f"; the last question is now: {last}" if last else "; the conversation is empty"
        self._say(f"taken back{where}" if undone else "there is nothing to take back")

    def _again(self, _: str) -> None:
        if not self.conversation.reopen():
            raise UserError("there is no question to answer again")
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % LARGEST_SEED)
        self._answer()

    def _setter(self, name: str, kind: Callable[[str], float], wanted: str) -> Callable[[str], None]:
        shown = name.replace("_", "-")

        def change(text: str) -> None:
            try:
                value = kind(text)
            except ValueError:
                raise UserError(f"/{shown} takes {wanted}") from None
            changed: dict[str, Any] = {name: value}
            self.settings = replace(self.settings, **changed)
            self._say(f"{shown} {value:g}" if kind is float else f"{shown} {value}")

        return change

    def _set(self) -> str:
        values = asdict(self.settings)
        return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in values.items())


def notices_of(model: ChatModel) -> list[str]:
    """What one should know of a model before one asks it something."""
    notices = []
    if not model.taught:
        notices.append(
            f"{model.name} is a base model: it continues text and was never taught to answer; it is asked in the chat "
            "format all the same"
        )
    if system := reasoning_prompt(model.folder):
        notices.append(f"{model.name} was raised to reason behind a system message: {system}")
    return notices
