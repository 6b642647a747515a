"""The one thread that draws, and the way of its tokens to the event loop.

All engines of a process are stepped in turn by one thread. Tokens go to the event loop in batches: the first one asks the
loop to come (`call_soon_threadsafe`), those that follow until it does ride along. What a request's handler has not taken
yet waits in its channel, which is bounded: an answer that nobody reads is given up rather than kept.

An engine that raises ends the thread, and with it every answer; the process is then fit for nothing but to be ended, and
says so (`failure`).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Protocol

from sapience.inference.requests import End, Request, Token

log = logging.getLogger(__name__)

Item = Token | End | Literal["died"]
"""A token, the end of an answer, or the end of the engine."""


class Counters(Protocol):
    """What an engine has done; the numbers only grow."""

    prompt_tokens: int
    cached_tokens: int
    drawn_tokens: int
    drafted_tokens: int
    accepted_tokens: int


class Draws(Protocol):
    """What is needed of an engine."""

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def counters(self) -> Counters: ...

    def submit(self, request: Request) -> None: ...

    def cancel(self, request: Request) -> None: ...

    def step(self) -> bool: ...


class Channel:
    """What the answers to one request said and its handler has not taken yet. Of the event loop alone."""

    def __init__(self, most: int) -> None:
        """`most`: items that may wait."""
        self._most = most
        self._unread: deque[tuple[int, Item]] = deque()
        self._arrived = asyncio.Event()
        self.overrun = False
        """More came than may wait: nothing is kept any more."""

    def put(self, answer: int, item: Item) -> None:
        if len(self._unread) >= self._most:
            self.overrun = True
            self._unread.clear()
        if not self.overrun:
            self._unread.append((answer, item))
        self._arrived.set()

    async def take(self) -> list[tuple[int, Item]]:
        """Everything there is, as soon as there is something."""
        await self._arrived.wait()
        self._arrived.clear()
        taken = list(self._unread)
        self._unread.clear()
        return taken


class EngineThread:
    """Steps engines until it is stopped."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._engines: tuple[Draws, ...] = ()
        self._channels: set[Channel] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._mail: deque[tuple[Channel, int, Item]] = deque()
        self._called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether answers can be drawn."""
        return self._thread.is_alive() and self.failure is None

    @property
    def open(self) -> int:
        """Requests whose handlers still listen."""
        return len(self._channels)

    def start(self) -> None:
        """From the event loop that the tokens go to."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Returns once the step under way is done."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, engine: Draws) -> None:
        """From now on step this one too."""
        self._engines = (*self._engines, engine)
        self._wake.set()

    def listen(self, channel: Channel) -> None:
        """Tell this channel where the engine dies, until `leave`."""
        self._channels.add(channel)

    def leave(self, channel: Channel) -> None:
        """The handler has gone."""
        self._channels.discard(channel)

    def submit(self, engine: Draws, request: Request) -> None:
        """Raises ValueError for what can never fit."""
        engine.submit(request)
        self._wake.set()

    def cancel(self, engine: Draws, request: Request) -> None:
        """Nobody wants it any more."""
        engine.cancel(request)
        self._wake.set()

    def end_all(self) -> None:
        """Every open answer ends as cancelled, as far as its handler is concerned. Of the event loop."""
        for channel in tuple(self._channels):
            channel.put(-1, "cancelled")

    def callbacks(
        self, channel: Channel, first: int
    ) -> tuple[Callable[[int, Token], None], Callable[[int, End], None]]:
        """`on_token` and `on_end` of a request whose answer 0 is the channel's answer `first`."""

        def on_token(sample: int, token: Token) -> None:
            self._post(channel, first + sample, token)

        def on_end(sample: int, end: End) -> None:
            self._post(channel, first + sample, end)

        return on_token, on_end

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()
                if not [engine for engine in self._engines if engine.step()]:
                    self._wake.wait()
        except BaseException as error:
            self.failure = error
            log.exception("the engine failed: no more answers can be drawn")
            self._call(self._tell_of_death)

    def _post(self, channel: Channel, answer: int, item: Item) -> None:
        self._mail.append((channel, answer, item))
        if not self._called:
            self._called = True
            self._call(self._deliver)

    def _call(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            if self._loop is not None:
                self._loop.call_soon_threadsafe(what)

    def _deliver(self) -> None:
        """`_called` falls before the mail is looked at, so that what is posted meanwhile calls again or is seen."""
        self._called = False
        for _ in range(len(self._mail)):
            channel, answer, item = self._mail.popleft()
            channel.put(answer, item)

    def _tell_of_death(self) -> None:
        self._deliver()
        for channel in tuple(self._channels):
            channel.put(-1, "died")
