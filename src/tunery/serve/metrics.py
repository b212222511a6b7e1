"""Numbers for Prometheus. Labels have few values: models that are served, addresses that exist, codes of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tunery_requests",
            "requests by what became of them",
            ("endpoint", "model", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "tunery_request_seconds", "from request to end of answer", ("endpoint",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first = Histogram(
            "tunery_first_token_seconds", "from request to first token, the queue included", ("model",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter("tunery_tokens", "tokens read and written", ("model", "kind"), registry=self.registry)

    def watch(self, stats: Callable[[], Mapping[str, float]]) -> None:
        """Show the worker's numbers as they are when somebody looks."""
        self.registry.register(_Stats(stats))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Stats:
    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        for name, value in self._stats().items():
            if name.endswith("_total"):
                yield CounterMetricFamily(f"tunery_engine_{name.removesuffix('_total')}", "of the engine", value)
            else:
                yield GaugeMetricFamily(f"tunery_engine_{name}", "of the engine", value)
