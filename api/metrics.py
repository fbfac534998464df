"""What the API counts, in a registry of its own, so that two apps in one process do not mix."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


class Metrics:
    """Requests by route, submitted jobs by model and outcome, and who waits. Thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "darkroom_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "darkroom_http_request_seconds",
            "Time to answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._submits = Counter(
            "darkroom_submits", "Jobs submitted.", ("model", "task", "outcome"), registry=self._registry
        )
        self._waiters = Gauge(
            "darkroom_waiters", "Open streams, polls and downloads.", ("kind",), registry=self._registry
        )

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered. `route` is the template of the path, never the path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def count_submit(self, model: str, task: str, *, replayed: bool) -> None:
        """One job was accepted, or an earlier answer repeated."""
        self._submits.labels(model, task, "replayed" if replayed else "accepted").inc()

    def count_waiter(self, kind: str, change: int) -> None:
        """One more (1) or one less (-1) connection waits here: a `stream`, a `poll` or a `download`."""
        self._waiters.labels(kind).inc(change)

    def render(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self._registry)
