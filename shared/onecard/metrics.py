"""Prometheus metrics. Each app has its own registry, so that two apps in one process do not share metrics."""

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from onecard import logs
from onecard.client_traffic import ClientTraffic

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Histogram bounds in seconds, from a cached response to a long generation."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def new_registry() -> CollectorRegistry:
    """A registry that already has the metrics of the process (memory, CPU, open files) and of its logs."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(LogMetrics())
    return registry


class LogMetrics(Collector):
    """Counts lost log lines."""

    @override
    def collect(self) -> Iterator[Metric]:
        text = "Log lines lost because their reader was too slow or gone."
        yield CounterMetricFamily("onecard_log_lines_dropped", text, logs.dropped())


class HttpMetrics:
    """HTTP requests by route template, so that ids in paths do not become labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: the app's.
        """
        self._requests = Counter(
            "onecard_http_requests_total", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "onecard_http_request_seconds",
            "Time from a request's headers to the last byte of its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        # Labelled children are cached: looking one up costs more than counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.in_flight = Gauge("onecard_http_in_flight", "Requests being answered now.", registry=registry)
        self.clients = ClientTraffic(registry)

    def record(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: the route template, or `unmatched`.
            method: the HTTP method, or `other`.
            status: the HTTP status sent.
            seconds: from the request's headers to the last byte of the response.
        """
        children = self._children.get((route, method, status))
        if children is None:
            children = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._children[route, method, status] = children
        requests, histogram = children
        requests.inc()
        histogram.observe(seconds)


def endpoint(request: Request) -> Response:
    """`GET /metrics`: the registry in `app.state.registry` in Prometheus's text format.

    Args:
        request: gives the app.

    Returns:
        The response.
    """
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
