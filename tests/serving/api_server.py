"""A server on this machine for the API's tests: a real uvicorn in a thread, over an engine that does what a test says, or over
the real one with a tiny model."""

import itertools
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from openai import OpenAI
from tiny_models import tiny_config, tiny_model

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer, train_tokenizer
from sapience.inference.engine import Engine
from sapience.inference.requests import Constraint, Request, Token
from sapience.model.transformer import Transformer
from sapience.serving.answering import ChatModel
from sapience.serving.api import House
from sapience.serving.engine_thread import EngineThread
from sapience.serving.limits import Limits
from sapience.serving.models import Shelf, Speaker
from sapience.serving.server import Server, listen

TOKENIZER = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
CHAT = ChatFormat(TOKENIZER)
CONTEXT = 1024
Script = Callable[[Sequence[int], int], Iterable[int]]
"""A prompt and a seed to the tokens that follow; eos comes where they end."""


def network(seed: int = 0, context: int = CONTEXT) -> Transformer:
    return tiny_model(tiny_config(vocab_size=288, max_position_embeddings=context), seed).eval()


def says(text: str) -> Script:
    """Always the same answer."""
    return lambda prompt, seed: TOKENIZER.encode(text)


def counts(prompt: Sequence[int], seed: int) -> Iterator[int]:
    """The prompt's last words, then numbers without end."""
    yield from TOKENIZER.encode(TOKENIZER.decode(prompt).split("<｜User｜>")[-1].removesuffix("<｜Assistant｜>"))
    for number in itertools.count():
        yield from TOKENIZER.encode(f" {number}")


@dataclass
class FakeCounters:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drawn_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(eq=False)
class _Saying:
    request: Request
    sample: int
    tokens: Iterator[int]
    constraint: Constraint | None
    chance: random.Random
    said: int = 0


class FakeEngine:
    """The engine's interface over a script. A constraint is followed by chance, where the script says something else."""

    def __init__(self, script: Script, rows: int = 64, delay: float = 0.0) -> None:
        self.script, self.rows, self.delay = script, rows, delay
        self.counters = FakeCounters()
        self.fails: BaseException | None = None
        self.cancelled: list[Request] = []
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._unwanted: set[Request] = set()
        self._saying: list[_Saying] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._saying)

    def submit(self, request: Request) -> None:
        with self._lock:
            self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        self.cancelled.append(request)
        with self._lock:
            self._unwanted.add(request)

    def step(self) -> bool:
        if self.fails:
            raise self.fails
        with self._lock:
            unwanted, self._unwanted = self._unwanted, set()
            gone = [request for request in self._waiting if request in unwanted]
            for request in gone:
                self._waiting.remove(request)
            left = [one for one in self._saying if one.request in unwanted]
            self._saying = [one for one in self._saying if one.request not in unwanted]
            while self._waiting and len(self._saying) + self._waiting[0].samples <= self.rows:
                request = self._waiting.popleft()
                self.counters.prompt_tokens += len(request.prompt)
                request.cached, request.drafted, request.accepted = 2, 5, 4
                for sample, seed in enumerate(request.seeds):
                    constraint = request.constraint() if request.constraint else None
                    tokens = iter(self.script(request.prompt, seed))
                    self._saying.append(_Saying(request, sample, tokens, constraint, random.Random(seed)))
        for request in gone:
            for sample in range(request.samples):
                request.on_end(sample, "cancelled")
        for one in left:
            one.request.on_end(one.sample, "cancelled")
        if not self._saying:
            return False
        if self.delay:
            time.sleep(self.delay)
        for one in tuple(self._saying):
            self._say(one)
        return True

    def _say(self, one: _Saying) -> None:
        token = next(one.tokens, TOKENIZER.eos_id)
        if one.constraint is not None:
            allowed = one.constraint.allowed()
            assert allowed is not None
            if not allowed[token]:
                token = int(one.chance.choice(torch.nonzero(allowed).flatten().tolist()))
            one.constraint.take(token)
        one.said += 1
        self.counters.drawn_tokens += 1
        best = tuple((index, -0.5 - index) for index in range(one.request.alternatives))
        one.request.on_token(one.sample, Token(token, -0.25, best))
        end = token in one.request.stop_ids
        if end or one.said == one.request.limit:
            self._saying.remove(one)
            one.request.on_end(one.sample, "stop" if end else "length")


@dataclass
class Running:
    """A server that runs, and what it is made of."""

    address: tuple[str, int]
    house: House
    server: Server
    speaker: Speaker
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def engine(self) -> FakeEngine:
        assert isinstance(self.speaker.engine, FakeEngine)
        return self.speaker.engine

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        made = socket.socket()
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(20)
        made.connect(self.address)
        return made


def fake_speaker(engine: FakeEngine, tokenizer: Tokenizer = TOKENIZER, context: int = CONTEXT) -> Speaker:
    model = ChatModel("fake", Path("fake"), network(context=context), ChatFormat(tokenizer), True)
    return Speaker.of(model, engine)


def real_speaker(seed: int = 0, context: int = CONTEXT) -> Speaker:
    model = ChatModel("tiny", Path("tiny"), network(seed, context), CHAT, True)
    return Speaker.of(model, Engine(model.network, rows=64))


@contextmanager
def running(speaker: Speaker, limits: Limits | None = None, key: str = "") -> Iterator[Running]:
    """A server with one model, called `tiny`, and one that cannot be loaded, `tiny@broken`."""
    thread = EngineThread()

    def load(folder: Path) -> Speaker:
        from sapience.serving.models import load_speaker

        return load_speaker(folder, 4, None)

    folders = {"tiny": Path("nowhere"), "tiny@broken": Path("nowhere-either")}
    house = House(thread, Shelf(folders, thread, load), limits or Limits(grace=5.0), key)
    house.shelf.put("tiny", speaker)
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()[:2]
        server = Server(house)
        runs = threading.Thread(target=server.run, args=([listener],), daemon=True)
        runs.start()
        until(lambda: server.started)
        try:
            yield Running(address, house, server, speaker, runs)
        finally:
            server.drain()
            server._until = 0.0
            runs.join(20)
            assert not runs.is_alive()


def until(true: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait for it; how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come to pass"
        time.sleep(0.005)
    return time.monotonic() - began
