"""What is asked of the engine, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

End = Literal["stop", "length", "cancelled", "failed"]
"""Why an answer ended: by a stop token, by the limit, since nobody wants it any more, since its constraint left nothing."""


MOST = 10**6
"""Of what has no bound by nature."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. Raises ValueError for what cannot be drawn with.

    In this order: penalties and biases change the logits, the temperature divides them, then top-k, top-p and min-p leave out
    unlikely tokens. Penalties are OpenAI's (presence, frequency) over the answer so far, and transformers' (repetition) over
    prompt and answer.
    """

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int = 0
    """Only so many of the likeliest; 0: all."""
    top_p: float = 1.0
    """Only the likeliest that together reach this probability."""
    min_p: float = 0.0
    """Only those at least so likely, as a share of the likeliest one's probability."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the answer holds."""
    frequency_penalty: float = 0.0
    """Taken off as often as the answer holds the token."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens in prompt and answer, multiplies negative ones."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""

    def __post_init__(self) -> None:
        bounds = (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
        )
        for name, value, least, most in bounds:
            if not least <= value <= most:
                raise ValueError(f"{name} {value} cannot be drawn with: give {least:g} to {most:g}")
        if not 0 <= self.top_k <= MOST or self.top_p == 0.0:
            raise ValueError(f"top_k 0 and top_p 1 take all tokens: give top_k 0 to {MOST}, top_p above 0")
        for token, bias in self.logit_bias.items():
            if not -MOST <= bias <= MOST:
                raise ValueError(f"logit_bias {bias} of token {token} cannot be drawn with: give -{MOST} to {MOST}")

    @property
    def limits(self) -> bool:
        """Whether unlikely tokens are left out."""
        return bool(self.top_k) or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing but the temperature has a say."""
        return self == Sampling(self.temperature)


@dataclass(frozen=True)
class Token:
    """A token of an answer."""

    id: int
    logprob: float
    """Nats, of the model's own distribution: temperature one, nothing left out."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their log-probabilities, best first, as many as were asked for."""


class Constraint(Protocol):
    """What an answer may say next, such as a grammar; one object an answer."""

    def allowed(self) -> Tensor | None:
        """bool [V] on the CPU, True where a token may come; None where any may."""

    def take(self, token: int) -> None:
        """This token came."""


@dataclass(eq=False)
class Request:
    """A prompt and how it is to be continued. Callbacks come from the thread that runs the engine, and must be quick."""

    prompt: Sequence[int]
    limit: int
    """Most tokens of an answer."""
    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    """Answers to draw; the prompt is read once."""
    stop_ids: frozenset[int] = frozenset()
    seeds: Sequence[int] = (0,)
    """One of each answer: with the same prompt, sampling and seed an answer is the same, whatever else is drawn; to the bit
    where the C++ forward pass draws, elsewhere but for rounding."""
    alternatives: int = 0
    constraint: Callable[[], Constraint] | None = None
    on_token: Callable[[int, Token], None] = lambda sample, token: None
    """Number of the answer, and its next token; a stop token is given too."""
    on_end: Callable[[int, End], None] = lambda sample, end: None
    """Number of the answer, once for each."""
    cached: int = field(default=0, init=False)
    """Tokens of the prompt that did not have to be read again; set when its reading begins."""
    drafted: int = field(default=0, init=False)
    """Tokens drafted for all its answers so far, and how many of them were what was drawn."""
    accepted: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a prompt has no tokens: begin it with the bos token")
        if self.alternatives < 0:
            raise ValueError(f"{self.alternatives} alternatives cannot be told: give 0 or more")
        if self.limit < 1 or self.samples < 1 or len(self.seeds) != self.samples:
            raise ValueError(
                f"{self.samples} answers of {self.limit} tokens with {len(self.seeds)} seeds cannot be drawn: give 1 or more "
                "of each, and a seed an answer"
            )
