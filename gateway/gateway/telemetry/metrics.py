"""What the gateway counts of the services and of its routes. Children are looked up once: `labels` takes longer than
counting does."""

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.telemetry.outcomes import AttemptOutcome, EjectionReason
from gateway.telemetry.percentiles import RecentDurations
from onecard.metrics import LATENCY_BUCKETS
from onecard.web.buffer_semaphore import BufferSemaphore

_OUTCOMES: tuple[AttemptOutcome, ...] = get_args(AttemptOutcome)
_CACHE_RESULTS = ("hit", "miss", "partial", "coalesced", "bypass")
"""What `x-cache` says."""
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, *LATENCY_BUCKETS)
"""Histogram bounds, in seconds: the gateway's own work begins at a few tenths of a millisecond."""


def measured_buffers(most_bytes: int, registry: CollectorRegistry) -> BufferSemaphore:
    """A budget whose use shows."""
    refused = Counter("onecard_buffers_refused_total", "Times that there was no room for more.", registry=registry)
    buffers = BufferSemaphore(most_bytes, refused.inc)
    text = "Held of requests and answers that are under way."
    Gauge("onecard_buffers_bytes", text, registry=registry).set_function(lambda: buffers.used_bytes)
    return buffers


class UpstreamMetrics:
    """Figures of all services, in one app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onecard_upstream_{name}_total", text, ["upstream", *labels], registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"onecard_upstream_{name}", text, ["upstream"], buckets=LATENCY_BUCKETS, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"onecard_upstream_{name}", text, ["upstream", "replica"], registry=registry)

        self.attempts = counter("attempts", "Requests sent to a service, retries included, by outcome.", "outcome")
        self.none_free = counter("none_free", "Requests that no replica could be asked for.")
        self.head_seconds = histogram("head_seconds", "Time to the head of an answer that is no failure.")
        self.seconds = histogram("seconds", "Time to the last byte of an answer that came whole.")
        self.retries = counter("retries", "Attempts that were repeated.")
        self.unretried = counter("retries_refused", "Attempts that were not repeated, for too many were.")
        self.ejections = counter("ejections", "Times that a replica was taken out of service, by reason.", "reason")
        self.tokens = counter("tokens", "Tokens of prompts (in) and answers (out), where `usage` tells.", "direction")
        self.wait_seconds = histogram("wait_seconds", "Time that requests waited for their turn, if they had to.")
        self.queue_full = counter("queue_full", "Requests that could not wait for their turn, for too many did.")
        text = "Requests that wait for their turn now."
        self.waiting = Gauge("onecard_upstream_waiting", text, ["upstream"], registry=registry)
        self.in_flight = gauge("in_flight", "Attempts at a replica now.")
        self.in_service = gauge("in_service", "Whether a replica is in service.")

    def of(self, upstream: str) -> "ServiceMetrics":
        """The figures of one service."""
        return ServiceMetrics(self, upstream)


class ServiceMetrics:
    """Figures of one service."""

    def __init__(self, metrics: UpstreamMetrics, upstream: str) -> None:
        self._metrics = metrics
        self._upstream = upstream
        self._attempts = {outcome: metrics.attempts.labels(upstream, outcome) for outcome in _OUTCOMES}
        self.head_seconds = metrics.head_seconds.labels(upstream)
        self._seconds = metrics.seconds.labels(upstream)
        self._retries = metrics.retries.labels(upstream)
        self._unretried = metrics.unretried.labels(upstream)
        self.none_free = metrics.none_free.labels(upstream)
        self.wait_seconds = metrics.wait_seconds.labels(upstream)
        self.queue_full = metrics.queue_full.labels(upstream)
        self._tokens_in = metrics.tokens.labels(upstream, "in")
        self._tokens_out = metrics.tokens.labels(upstream, "out")
        for reason in get_args(EjectionReason):
            metrics.ejections.labels(upstream, reason)

    def show_endpoint(self, replica: int, in_flight: Callable[[], int], in_service: Callable[[], bool]) -> None:
        """Ask for these whenever somebody reads the metrics."""
        labels = (self._upstream, str(replica))
        self._metrics.in_flight.labels(*labels).set_function(in_flight)
        self._metrics.in_service.labels(*labels).set_function(in_service)

    def show_waiting(self, waiting: Callable[[], int]) -> None:
        """Ask for this whenever somebody reads the metrics."""
        self._metrics.waiting.labels(self._upstream).set_function(waiting)

    def attempt_ended(self, outcome: AttemptOutcome, seconds: float) -> None:
        """An attempt is over, after so long."""
        self._attempts[outcome].inc()
        if outcome == "ok":
            self._seconds.observe(seconds)

    def retry_decided(self, goes_out: bool) -> None:
        """An attempt is worth repeating, and is or is not repeated."""
        (self._retries if goes_out else self._unretried).inc()

    def ejected(self, reason: EjectionReason) -> None:
        """A replica is out."""
        self._metrics.ejections.labels(self._upstream, reason).inc()

    def count_tokens(self, prompt: int, completion: int) -> None:
        """An answer says that it took so many."""
        self._tokens_in.inc(prompt)
        self._tokens_out.inc(completion)


class RouteMetrics:
    """Figures of the relayed routes, in one app's registry, and their percentiles of the last minutes.

    `onecard_http_…` counts all requests, whatever became of them, and this those that a service or the cache answered.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cache = Counter(
            "onecard_http_cache_total",
            "Answers by what x-cache says of them; none: nothing.",
            ["route", "cache"],
            registry=registry,
        )
        self._overhead = Histogram(
            "onecard_http_overhead_seconds",
            "Time from a request's body to the last byte of its answer, without what its service took.",
            ["route"],
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "onecard_http_first_byte_seconds",
            "Time from a request's body to the first byte of its answer's.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.routes: dict[str, RouteRecorder] = {}
        """By route, those that have been asked for."""

    def of(self, route: str) -> "RouteRecorder":
        """The figures of one route."""
        recorder = self.routes.get(route)
        if recorder is None:
            cache = {value: self._cache.labels(route, value) for value in (*_CACHE_RESULTS, "none")}
            observed = self._overhead.labels(route), self._first_byte.labels(route)
            recorder = self.routes[route] = RouteRecorder(cache, *observed, RecentDurations(self._clock))
        return recorder


class RouteRecorder:
    """Figures of one route."""

    def __init__(
        self, cache: dict[str, Counter], overhead: Histogram, first_byte: Histogram, recent: RecentDurations
    ) -> None:
        self._cache = cache
        self._overhead = overhead
        self.first_byte = first_byte
        """Takes the seconds until the body of an answer begins."""
        self.percentiles = recent

    def responded(self, cache: str, seconds: float, upstream_seconds: float | None) -> None:
        """The whole of an answer is sent.

        Args:
            cache: what `x-cache` says of it; a service may say what we do not know.
            upstream_seconds: how much of `seconds` its service took; None when another request waited for that.
        """
        self._cache[cache if cache in _CACHE_RESULTS else "none"].inc()
        self.percentiles.add(seconds)
        if upstream_seconds is not None:
            self._overhead.observe(max(seconds - upstream_seconds, 0.0))
