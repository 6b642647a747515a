"""The models that a server offers: loaded when somebody first asks for one, kept from then on.

A run offers all its speaking models as `RUN@stage`, so that one can hear in one place what each stage changed; a folder
offers the one in it. Loading happens once and beside everything else: requests for other models go on meanwhile. Nothing is
ever unloaded: what all of them need together is the sum of what `sapience plan` says of each.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapience.corpus.chat import has_chat_template
from sapience.recipe.errors import UserError
from sapience.recipe.serve import DRAFT
from sapience.serving.answering import ChatModel, load_chat_model
from sapience.serving.engine_thread import Draws, EngineThread
from sapience.serving.grammar import Grammars
from sapience.serving.refusals import Refused
from sapience.serving.run_models import name_of, reasoning_prompt, run_of, speaking_models


@dataclass(frozen=True)
class Speaker:
    """A model that is ready to answer, with the engine that draws for it."""

    model: ChatModel
    engine: Draws
    grammars: Grammars
    vocabulary: int
    """Rows of the head."""

    @staticmethod
    def of(model: ChatModel, engine: Draws) -> "Speaker":
        """With a grammar of its tokenizer."""
        vocabulary = model.network.config.vocab_size
        return Speaker(model, engine, Grammars(model.chat.tokenizer, vocabulary), vocabulary)


Load = Callable[[Path], Speaker]


def offered(folder: Path) -> tuple[str, dict[str, Path]]:
    """The id of a folder's model, and the folders of everything to offer beside it by id."""
    run = run_of(folder)
    if run is None:
        name = folder.absolute().name
        return name, {name: folder}
    names = {f"{run.name}@{stage}": model for stage, model in speaking_models(run).items()}
    chosen = f"{run.name}@{name_of(folder)}"
    return chosen, {chosen: folder, **names}


def load_speaker(
    folder: Path, rows: int, positions: int | None, draft: int = DRAFT, eight_bits: bool = False
) -> Speaker:
    """A folder's model, on a GPU where there is one. Raises UserError where it cannot be loaded, or not in 8 bits."""
    model = load_chat_model(folder, draft, eight_bits)
    return Speaker.of(model, model.drawing(rows, positions))


@dataclass(frozen=True)
class About:
    """What one should know of a model before one asks it something; read from its folder, without its weights."""

    created: int = 0
    """When, in seconds since 1970."""
    context: int | None = None
    """Tokens of prompt and answer."""
    taught: bool = True
    """False for a base model, which only ever continued text."""
    system_prompt: str = ""
    """Behind which an expert was raised."""

    @staticmethod
    def of(folder: Path) -> "About":
        """As far as the folder says it."""
        created, context, prompt = 0, None, ""
        with suppress(OSError, ValueError, AttributeError):
            config = folder / "config.json"
            created = int(config.stat().st_mtime)
            context = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
        with suppress(UserError):
            prompt = reasoning_prompt(folder)
        return About(created, context, has_chat_template(folder), prompt)


class Shelf:
    """Models by id."""

    def __init__(self, folders: Mapping[str, Path], thread: EngineThread, load: Load) -> None:
        self.folders = dict(folders)
        self._thread, self._load = thread, load
        self._ready: dict[str, Speaker] = {}
        self._locks = {name: asyncio.Lock() for name in folders}
        self._about = {name: About.of(folder) for name, folder in folders.items()}

    @property
    def ready(self) -> Mapping[str, Speaker]:
        """The loaded ones."""
        return self._ready

    @property
    def waiting(self) -> int:
        """Requests that no engine has begun."""
        return sum(speaker.engine.waiting for speaker in self._ready.values())

    @property
    def running(self) -> int:
        """Answers being drawn."""
        return sum(speaker.engine.running for speaker in self._ready.values())

    def put(self, name: str, speaker: Speaker) -> None:
        """A model that is loaded."""
        self._ready[name] = speaker
        self._thread.add(speaker.engine)

    def check(self, name: str) -> None:
        """Raises Refused for a model that is not offered."""
        if name not in self.folders:
            known = ", ".join(self.folders)
            raise Refused(404, f"The model `{name}` does not exist: choose from {known}", "model", "model_not_found")

    def told(self, name: str) -> dict[str, Any]:
        """OpenAI's four fields of a model, and ours, which its clients pass over."""
        about = self._about[name]
        ours = {"context": about.context, "taught": about.taught, "system_prompt": about.system_prompt}
        ours["loaded"] = name in self._ready
        return {"id": name, "object": "model", "created": about.created, "owned_by": "sapience", "sapience": ours}

    async def get(self, name: str) -> Speaker:
        """The model of this id, loaded. Raises Refused where there is none, or none that can be loaded."""
        self.check(name)
        async with self._locks[name]:
            if name not in self._ready:
                try:
                    self.put(name, await asyncio.to_thread(self._load, self.folders[name]))
                except UserError as error:
                    raise Refused(503, f"the model {name} cannot be loaded: {error}", "model") from None
            return self._ready[name]
