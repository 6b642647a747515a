"""What a server has done, for Prometheus: counted as it happens, what engines count themselves read when asked."""

from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from sapience.serving.models import Shelf

PATHS = frozenset({"/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions"})
"""Everything else is counted as one, so that nobody can make the server keep a series for every path he thinks of."""
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Measures:
    """Counters of one server."""

    def __init__(self, shelf: Shelf) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sapience_requests", "Replies by path and status.", ("path", "status"), registry=self.registry
        )
        self._prompt = Counter(
            "sapience_prompt_tokens", "Tokens of prompts that were accepted.", registry=self.registry
        )
        self._answer = Counter("sapience_answer_tokens", "Tokens that were given out.", registry=self.registry)
        self._first = Histogram(
            "sapience_first_token_seconds", "From a request's arrival to its first token.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._speed = Histogram(
            "sapience_request_tokens_per_second", "Tokens of all answers to a request, a second from the first on.",
            buckets=_SPEEDS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Engines(shelf))

    def replied(self, path: str, status: int) -> None:
        """A reply has begun."""
        known = path if path in PATHS else "/v1/models" if path.startswith("/v1/models/") else "other"
        self._requests.labels(known, str(status)).inc()

    def first(self, seconds: float) -> None:
        """A request's first token came."""
        self._first.observe(seconds)

    def drawn(self, prompt: int, tokens: int, seconds: float) -> None:
        """A request has ended."""
        self._prompt.inc(prompt)
        self._answer.inc(tokens)
        if tokens > 1 and seconds > 0:
            self._speed.observe((tokens - 1) / seconds)

    def reply(self) -> Response:
        """All of them, as Prometheus reads them."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class _Engines(Collector):
    """Queues and counters of the loaded models' engines."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        gauges = {"waiting": "Requests that no engine has begun.", "running": "Answers being drawn."}
        for name, what in gauges.items():
            gauge = GaugeMetricFamily(f"sapience_{name}", what, labels=["model"])
            for model, speaker in self._shelf.ready.items():
                gauge.add_metric([model], getattr(speaker.engine, name))
            yield gauge
        counted = {
            "prompt": "Tokens of prompts that were read.",
            "cached": "Of these, tokens that did not have to be read again.",
            "drawn": "Tokens drawn.",
            "drafted": "Tokens that were proposed ahead.",
            "accepted": "Of these, tokens that the model would have drawn itself.",
        }
        for name, what in counted.items():
            counter = CounterMetricFamily(f"sapience_engine_{name}_tokens", what, labels=["model"])
            for model, speaker in self._shelf.ready.items():
                counter.add_metric([model], getattr(speaker.engine.counters, f"{name}_tokens"))
            yield counter
