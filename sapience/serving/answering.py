"""One answer of a model to a conversation, given out as it comes.

What is given out piece by piece is exactly the text that the whole answer decodes to, so that a reader sees what a
record would hold. An answer depends on the conversation, the settings and the seed alone: asked again, it is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sapience.corpus.chat import ChatFormat, has_chat_template
from sapience.corpus.tokenizer import TextStream, Tokenizer
from sapience.inference.engine import Engine
from sapience.inference.generate import row_seed
from sapience.inference.requests import Request, Sampling, Token
from sapience.model.huggingface import load_model
from sapience.model.transformer import Transformer
from sapience.recipe.errors import UserError
from sapience.recipe.serve import DRAFT
from sapience.serving.conversation import Conversation
from sapience.serving.run_models import name_of
from sapience.training.device import choose_device

LARGEST_SEED = 2**32
REWARD_HEAD = "reward_head.safetensors"
"""Beside the weights of a model that gives scores."""


@dataclass(frozen=True)
class ChatModel:
    """A model that is ready to answer."""

    name: str
    folder: Path
    network: Transformer
    chat: ChatFormat
    taught: bool
    """False for a base model, which only ever continued text."""
    draft: int = DRAFT
    """Tokens that the prediction module drafts ahead."""
    eight_bits: bool = False
    """Whether it draws with weights of 8 bits."""

    @property
    def context(self) -> int:
        """Longest conversation in tokens, the answer included."""
        return self.network.config.max_position_embeddings

    @cached_property
    def engine(self) -> Engine:
        """Draws one answer at a time, and need not read again what a conversation has said before.

        Raises UserError where weights cannot be had in 8 bits.
        """
        return self.drawing(1, 4 * self.context)

    def drawing(self, rows: int, positions: int | None) -> Engine:
        """An engine of one's own; see `Engine`."""
        return Engine(self.network, rows=rows, positions=positions, depth=self.draft, eight_bits=self.eight_bits)


@dataclass(frozen=True)
class Settings:
    """How answers are drawn. Raises UserError for what cannot be drawn with."""

    temperature: float = 0.7
    """0 takes the likeliest token every time."""
    tokens: int = 512
    """Most tokens of an answer."""
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    """See `Sampling`."""

    @property
    def sampling(self) -> Sampling:
        """How each token is chosen."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    def __post_init__(self) -> None:
        try:
            self.sampling  # noqa: B018
        except ValueError as error:
            raise UserError(str(error)) from None
        if not 0 <= self.seed < LARGEST_SEED:
            raise UserError(f"seed {self.seed} is out of range: give a whole number from 0 to {LARGEST_SEED - 1}")
        if self.tokens < 1:
            raise UserError(f"an answer of {self.tokens} tokens says nothing: give 1 or more")


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    tokens: int
    """Drawn, the closing one included."""
    finished: bool
    """True where the model ended it, False where the limit or Ctrl-C did."""
    stopped: bool
    """True where Ctrl-C did."""
    left_out: int
    """Oldest questions that the model was not shown, since its context has no room for them."""


def load_chat_model(folder: Path, draft: int = DRAFT, eight_bits: bool = False) -> ChatModel:
    """The model of a Hugging Face folder, on a GPU where there is one. Its engine is made when it is first wanted.

    Raises UserError where it cannot be loaded, and for a reward model.
    """
    if (folder / REWARD_HEAD).is_file():
        raise UserError(f"{folder} is a reward model, which gives scores and no answers: choose another model")
    chat = ChatFormat(Tokenizer.load(folder))
    network = load_model(folder, choose_device("auto")).eval()
    return ChatModel(name_of(folder), folder, network, chat, has_chat_template(folder), draft, eight_bits)


def answer(model: ChatModel, conversation: Conversation, settings: Settings, show: Callable[[str], None]) -> Answer:
    """The answer to the conversation's last question; `show` is given its text as it comes.

    Ctrl-C ends the answer where it is. Raises UserError where the question does not fit the model's context; nothing is
    added to the conversation.
    """
    reserved = min(settings.tokens, model.context // 4)
    fitted = conversation.fitted(model.chat, model.context - reserved)
    stream = AnswerStream(model.chat)
    drawn: list[int] = []

    def on_token(_: int, token: Token) -> None:
        drawn.append(token.id)
        show(stream.push(token.id))

    eos = model.chat.tokenizer.eos_id
    room = min(settings.tokens, model.context - len(fitted.tokens))
    request = Request(
        fitted.tokens, room, settings.sampling, stop_ids=frozenset({eos}),
        seeds=[row_seed(settings.seed, 0)], on_token=on_token,
    )  # fmt: skip
    stopped = False
    engine = model.engine
    engine.submit(request)
    try:
        while engine.step():
            pass
    except BaseException as error:
        vars(model).pop("engine")  # cut off anywhere, it is not to be gone on with
        if not isinstance(error, KeyboardInterrupt):
            raise
        stopped = True
    show(stream.end())
    finished = drawn[-1:] == [eos]
    return Answer(model.chat.text(drawn), len(drawn), finished, stopped and not finished, fitted.left_out)


class AnswerStream:
    """`ChatFormat.text` piece by piece: the pieces together are the text of all tokens, whatever bytes they stand for."""

    def __init__(self, chat: ChatFormat) -> None:
        self._eos = chat.tokenizer.eos_id
        self._stream = TextStream(chat.tokenizer)
        self._blank = chat.text(chat.tokenizer.encode(" ")) == ""
        """Whether a blank that the format puts before an answer is still to be taken off."""

    def push(self, token: int) -> str:
        """What is certain so far and was not given yet."""
        return "" if token == self._eos else self._cut(self._stream.push(token))

    def end(self) -> str:
        """The rest: bytes of a character that never came to its end."""
        return self._cut(self._stream.end())

    def _cut(self, text: str) -> str:
        if self._blank and text:
            self._blank = False
            return text.removeprefix(" ")
        return text
