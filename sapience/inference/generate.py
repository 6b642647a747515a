"""Continuing a list of prompts: the engine's work, asked for all at once.

A prompt that stands there several times is read once. Every row has random numbers of its own, so a result does not depend
on its neighbours.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from sapience.inference import graph_network, native_network
from sapience.inference.engine import Engine
from sapience.inference.pages import PAGE, pages_for
from sapience.inference.requests import End, Request, Sampling, Token
from sapience.model.transformer import Transformer

WORTH_RECORDING = 1000
"""Steps on a GPU from which on compiling and recording them, up to a minute, costs less than they save, some 20 ms each."""


@dataclass(frozen=True)
class Completion:
    """What the model wrote after one prompt."""

    tokens: list[int]
    """The stop token, if one came, is the last."""
    logprobs: list[float]
    """Log-probability (nats, temperature one) of each token at the moment it was drawn."""
    finished: bool
    """True where a stop token ended it, False where the limit did."""


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    batch_size: int = 64,
    depth: int = 0,
    eight_bits: bool = False,
    recorded: bool | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Continue every prompt by at most `max_new_tokens`; greedy at temperature 0.

    `on_token(prompt index, token)` is called as tokens come, for streaming. `depth`, `eight_bits`, `recorded`: see `Engine`;
    by default steps are recorded where there are many. Raises ValueError for an empty prompt.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens: begin it with the bos token")
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row])):
        rows_of.setdefault(tuple(prompts[row]), []).append(row)
    if not rows_of:
        return []
    rows = max(1, min(batch_size, len(prompts)))
    if recorded is None:
        recorded = max_new_tokens * -(-len(prompts) // rows) >= WORTH_RECORDING
    engine = Engine(
        model,
        rows=rows,
        positions=_positions([(len(prompt), len(asked)) for prompt, asked in rows_of.items()], rows, max_new_tokens),
        context=max(map(len, prompts)) + max_new_tokens,
        depth=depth,
        eight_bits=eight_bits,
        recorded=recorded,
    )
    results: dict[int, _Result] = {}
    for prompt, asked in rows_of.items():
        made = [results.setdefault(row, _Result(row, on_token)) for row in asked]
        engine.submit(
            Request(
                prompt,
                max_new_tokens,
                Sampling(temperature),
                len(asked),
                frozenset(stop_ids),
                [row_seed(seed, row) for row in asked],
                on_token=lambda sample, token, made=made: made[sample].take(token),  # type: ignore[misc]
                on_end=lambda sample, end, made=made: made[sample].close(end),  # type: ignore[misc]
            )
        )
    while engine.step():
        pass
    return [results[row].completion for row in range(len(prompts))]


def row_seed(seed: int, row: int) -> int:
    """Of an answer's random numbers. A generator takes no more than 64 bits, however large a recipe's seed is."""
    return (seed * 1_000_003 + row) % 2**64


def _positions(prompts: Sequence[tuple[int, int]], rows: int, limit: int) -> int:
    """How many keep `rows` answers going, of prompts of such lengths with so many answers each."""
    shared = sorted((pages_for(length) for length, _ in prompts), reverse=True)[:rows]
    own = sorted(
        (pages_for(length + limit) - length // PAGE for length, count in prompts for _ in range(count)), reverse=True
    )[:rows]
    return PAGE * (sum(shared) + sum(own) + 1)


def decoder_name(model: Transformer) -> str:
    """What draws from the model here: `c++`, `cuda graphs` or `pytorch`."""
    return "c++" if native_network.fits(model) else "cuda graphs" if graph_network.fits(model) else "pytorch"


@dataclass
class _Result:
    """One row's answer while it comes."""

    row: int
    heard: Callable[[int, int], None] | None
    completion: Completion = field(default_factory=lambda: Completion([], [], False))

    def take(self, token: Token) -> None:
        self.completion.tokens.append(token.id)
        self.completion.logprobs.append(token.logprob)
        if self.heard is not None:
            self.heard(self.row, token.id)

    def close(self, end: End) -> None:
        self.completion = Completion(self.completion.tokens, self.completion.logprobs, end == "stop")
