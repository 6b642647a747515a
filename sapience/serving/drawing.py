"""One request's answers while they are drawn: begun in the engine, read in batches, ended at their time, given up when left.

Whatever way a request ends (its answers are complete, its client has gone, its time is over, the server fails), `close` is
called and the engine told; nothing is drawn for nobody.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from sapience.inference.generate import row_seed
from sapience.inference.requests import Constraint, Request, Sampling, Token
from sapience.serving.engine_thread import Channel, EngineThread
from sapience.serving.limits import Limits
from sapience.serving.measures import Measures
from sapience.serving.models import Speaker
from sapience.serving.refusals import Refused

RETRY_SECONDS = 1


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn for one request."""

    prompts: list[list[int]]
    each: int
    """Answers to each prompt."""
    room: list[int]
    """Most tokens of an answer, by prompt."""
    sampling: Sampling
    seed: int
    """The same as that of `sapience chat`: the first answer is the one it gives."""
    alternatives: int = 0
    constraint: Callable[[], Constraint] | None = None
    one_by_one: bool = False
    """Whether an answer may have to end before the others to its prompt do."""
    began: float = field(default_factory=time.monotonic)

    @property
    def answers(self) -> int:
        """All of them."""
        return self.each * len(self.prompts)

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each counted once."""
        return sum(map(len, self.prompts))


Batch = list[tuple[int, Token | str]]
"""Tokens of answers, by the answers' numbers, and how answers ended."""


class Drawing:
    """The answers to one request."""

    def __init__(
        self, thread: EngineThread, speaker: Speaker, wanted: Wanted, limits: Limits, measures: Measures
    ) -> None:
        """Begins. Raises Refused where the engine says that it can never fit."""
        self._thread, self._engine, self._measures = thread, speaker.engine, measures
        self.wanted = wanted
        self._limits = limits
        self._channel = Channel(limits.unread + wanted.answers)
        self._open = set(range(wanted.answers))
        self._requests: list[tuple[Request, range]] = []
        self._closed = False
        self._drawn = 0
        self._first: float | None = None
        samples = 1 if wanted.one_by_one else wanted.each
        thread.listen(self._channel)
        try:
            for first in range(0, wanted.answers, samples):
                self._submit(first, samples, speaker.model.chat.tokenizer.eos_id)
        except (ValueError, IndexError) as error:
            self.close()
            raise Refused(400, str(error), None, "context_length_exceeded") from None

    def _submit(self, first: int, samples: int, eos: int) -> None:
        wanted, place = self.wanted, first // self.wanted.each
        on_token, on_end = self._thread.callbacks(self._channel, first)
        request = Request(
            wanted.prompts[place],
            wanted.room[place],
            wanted.sampling,
            samples,
            frozenset({eos}),
            [row_seed(wanted.seed, first % wanted.each + sample) for sample in range(samples)],
            wanted.alternatives,
            wanted.constraint,
            on_token,
            on_end,
        )
        self._thread.submit(self._engine, request)
        self._requests.append((request, range(first, first + samples)))

    async def batches(self) -> AsyncIterator[Batch]:
        """What comes, as it comes, until every answer has ended. Raises Refused where one cannot be ended well: 500 where
        the engine failed, 503 where the server ends, 504 where time is over and nothing was said yet."""
        remaining = self.wanted.began + self._limits.seconds - time.monotonic()
        deadline = asyncio.get_running_loop().time() + remaining
        try:
            while self._open:
                try:
                    async with asyncio.timeout_at(deadline):
                        items = await self._channel.take()
                except TimeoutError:
                    yield self._time_is_over()
                    return
                if self._channel.overrun:
                    raise Refused(
                        503,
                        f"the answer was not read: more than {self._limits.unread} tokens waited",
                        None,
                        "slow_reader",
                    )
                batch: Batch = []
                for answer, item in items:
                    self._note(answer, item, batch)
                if batch:
                    yield batch
        finally:
            self.close()

    @property
    def cached(self) -> int:
        """Tokens of the prompts that did not have to be read, each prompt counted once."""
        return sum(request.cached for request, numbers in self._requests if numbers[0] % self.wanted.each == 0)

    @property
    def predicted(self) -> tuple[int, int]:
        """Tokens that were drafted ahead and drawn, and drafted for nothing."""
        accepted = sum(request.accepted for request, _ in self._requests)
        return accepted, max(0, sum(request.drafted for request, _ in self._requests) - accepted)

    def finish(self, answer: int) -> None:
        """No more is wanted of this answer."""
        if answer not in self._open:
            return
        self._open.discard(answer)
        for request, numbers in self._requests:
            if answer in numbers and not self._open.intersection(numbers):
                self._thread.cancel(self._engine, request)

    def close(self) -> None:
        """No more is wanted of any."""
        if self._closed:
            return
        self._closed = True
        for request, numbers in self._requests:
            if self._open.intersection(numbers):
                self._thread.cancel(self._engine, request)
        self._thread.leave(self._channel)
        seconds = time.monotonic() - (self._first or self.wanted.began)
        self._measures.drawn(self.wanted.prompt_tokens, self._drawn, seconds)

    def _note(self, answer: int, item: Token | str, batch: Batch) -> None:
        if item == "died":
            raise Refused(500, "the engine failed: the server has to be started again", None, "engine_failed")
        if answer == -1:
            raise Refused(503, "the server was stopped before the answer was complete", None, "shutting_down")
        if answer not in self._open:
            return
        if isinstance(item, Token):
            self._drawn += 1
            if self._first is None:
                self._first = time.monotonic()
                self._measures.first(self._first - self.wanted.began)
        elif item in ("stop", "length"):
            self._open.discard(answer)
        elif item == "failed":
            raise Refused(
                400, "the form that the answer must have is too intricate: simplify it", None, "invalid_schema"
            )
        else:
            raise Refused(500, "the answer was cancelled", None, "answer_failed")
        batch.append((answer, item))

    def _time_is_over(self) -> Batch:
        if self._first is None:
            raise Refused(
                504, f"no answer began within {self._limits.seconds:g} seconds: try again later", None, "timeout"
            )
        return [(answer, "length") for answer in sorted(self._open)]


def check_room(waiting: int, wanted: Wanted, limits: Limits) -> None:
    """Raises Refused where too many wait already."""
    more = wanted.answers if wanted.one_by_one else len(wanted.prompts)
    if waiting + more > limits.waiting:
        raise Refused(
            429,
            f"{waiting} requests wait already and at most {limits.waiting} may: try again later",
            None,
            "queue_full",
            {"Retry-After": str(RETRY_SECONDS)},
        )
