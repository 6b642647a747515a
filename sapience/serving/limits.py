"""What a server does not do for anyone: how much, how long, how many."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. Seconds are of wall-clock time."""

    body_bytes: int = 2 << 20
    """Of a request: 413. A prompt of V3's whole context has about half a megabyte."""
    header_bytes: int = 32 << 10
    """Of a request's first line and headers: 431."""
    arrival_seconds: float = 30.0
    """For a request's headers, and again for its body, to arrive: 408."""
    prompt_tokens: int | None = None
    """Of one prompt: 400; None leaves it to the model's context."""
    answer_tokens: int = 4096
    """Of one answer: 400 where more is asked for; it is also what an answer gets that asks for nothing in the chat API. The
    engine sets latents aside for the whole of it, so that a larger one lets fewer answers be drawn at once."""
    choices: int = 16
    """Answers to one request, all its prompts together: 400."""
    waiting: int = 256
    """Requests that no engine has begun: 429."""
    at_once: int = 1024
    """Requests under way, whatever they wait for, their own bodies for example: 429."""
    seconds: float = 600.0
    """From a request's arrival to the end of its answer; what there is by then is the answer (`length`), or 504."""
    slow_seconds: float = 30.0
    """A stream of which nothing is read for so long is given up."""
    unread: int = 4096
    """Tokens of one request that may wait for its reader; with more it is given up."""
    grace: float = 30.0
    """For what was accepted, when the server is asked to end."""
