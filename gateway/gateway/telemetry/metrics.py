"""Metrics of the services and of the routes.

Children are looked up once, because `labels` takes longer than counting.
"""

from collections.abc import Callable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.telemetry.outcomes import AttemptOutcome, EjectionReason
from gateway.telemetry.percentiles import RecentDurations
from onecard.metrics import LATENCY_BUCKETS
from onecard.web.buffer_semaphore import BufferSemaphore

_OUTCOMES: tuple[AttemptOutcome, ...] = get_args(AttemptOutcome)
_CACHE_RESULTS = ("hit", "miss", "partial", "coalesced", "bypass")
"""Known values of `x-cache`."""
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, *LATENCY_BUCKETS)
"""Bounds of the histogram: the gateway's own work begins at a few tenths of a millisecond."""


def measured_buffers(max_bytes: int, registry: CollectorRegistry, *, min_share_bytes: int | None) -> BufferSemaphore:
    """Buffer space with metrics of its use.

    Args:
        max_bytes: its limit.
        registry: for the metrics.
        min_share_bytes: see `BufferSemaphore`.

    Returns:
        The buffer space.
    """
    refused = Counter("onecard_buffers_refused_total", "Times that buffer space was refused.", registry=registry)
    buffers = BufferSemaphore(max_bytes, refused.inc, min_share_bytes=min_share_bytes)
    help_text = "Buffered bytes of requests and responses now."
    Gauge("onecard_buffers_bytes", help_text, registry=registry).set_function(lambda: buffers.used_bytes)
    return buffers


class UpstreamMetrics:
    """Metrics of all services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: where.
        """

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onecard_upstream_{name}_total", text, ["upstream", *labels], registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"onecard_upstream_{name}", text, ["upstream"], buckets=LATENCY_BUCKETS, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"onecard_upstream_{name}", text, ["upstream", "replica"], registry=registry)

        self.attempts = counter("attempts", "Requests sent to a service, retries included, by outcome.", "outcome")
        self.none_free = counter("none_free", "Attempts for which no replica was available.")
        self.head_seconds = histogram("head_seconds", "Time to the head of a response that is no failure.")
        self.seconds = histogram("seconds", "Time to the last byte of a complete response.")
        self.retries = counter("retries", "Attempts that were retried.")
        self.unretried = counter("retries_refused", "Attempts not retried because the retry budget was used up.")
        self.ejections = counter("ejections", "Ejections of a replica, by reason.", "reason")
        self.tokens = counter("tokens", "Tokens of prompts (in) and responses (out), from `usage`.", "direction")
        self.wait_seconds = histogram("wait_seconds", "Time that requests waited in the queue, if they had to.")
        self.queue_full = counter("queue_full", "Requests refused because the queue was full.")
        text = "Requests in the queue now."
        self.waiting = Gauge("onecard_upstream_waiting", text, ["upstream"], registry=registry)
        self.in_flight = gauge("in_flight", "Attempts at a replica now.")
        self.in_service = gauge("in_service", "Whether a replica is in service.")
        self.stand_in = gauge("stand_in", "Whether a replica serves a stand-in instead of the model that is meant.")

    def of(self, upstream: str) -> "ServiceMetrics":
        """The metrics of one service.

        Args:
            upstream: its name.

        Returns:
            The children with its label.
        """
        return ServiceMetrics(self, upstream)


class ServiceMetrics:
    """Metrics of one service."""

    def __init__(self, metrics: UpstreamMetrics, upstream: str) -> None:
        """Look up the children.

        Args:
            metrics: of all services.
            upstream: name of the service.
        """
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

    def show_endpoint(
        self,
        replica: int,
        in_flight: Callable[[], int],
        in_service: Callable[[], bool],
        stand_in: Callable[[], bool],
    ) -> None:
        """Export the state of a replica; the functions are called whenever the metrics are read.

        Args:
            replica: its number.
            in_flight: attempts there now.
            in_service: whether it is in service.
            stand_in: whether it serves a stand-in.
        """
        labels = (self._upstream, str(replica))
        self._metrics.in_flight.labels(*labels).set_function(in_flight)
        self._metrics.in_service.labels(*labels).set_function(in_service)
        self._metrics.stand_in.labels(*labels).set_function(stand_in)

    def show_waiting(self, waiting: Callable[[], int]) -> None:
        """Export the length of the queue; the function is called whenever the metrics are read.

        Args:
            waiting: requests in the queue.
        """
        self._metrics.waiting.labels(self._upstream).set_function(waiting)

    def attempt_ended(self, outcome: AttemptOutcome, seconds: float) -> None:
        """Count an attempt that has ended.

        Args:
            outcome: of the attempt.
            seconds: its duration.
        """
        self._attempts[outcome].inc()
        if outcome == "ok":
            self._seconds.observe(seconds)

    def retry_decided(self, is_allowed: bool) -> None:
        """Count an attempt that could be retried.

        Args:
            is_allowed: whether the retry budget allows it.
        """
        (self._retries if is_allowed else self._unretried).inc()

    def ejected(self, reason: EjectionReason) -> None:
        """Count the ejection of a replica.

        Args:
            reason: of the ejection.
        """
        self._metrics.ejections.labels(self._upstream, reason).inc()

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Count the tokens that a response reports.

        Args:
            prompt: its prompt's.
            completion: its own.
        """
        self._tokens_in.inc(prompt)
        self._tokens_out.inc(completion)


class RouteMetrics:
    """Metrics of the relayed routes, and their percentiles of the last minutes.

    They cover requests that a service or the cache has answered; `onecard_http_…` covers all.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        """Register the metrics.

        Args:
            registry: where.
            clock: monotonic seconds.
        """
        self._clock = clock
        self._cache = Counter(
            "onecard_http_cache_total",
            "Responses by their x-cache header; none: without one.",
            ["route", "cache"],
            registry=registry,
        )
        self._overhead = Histogram(
            "onecard_http_overhead_seconds",
            "Time from a request's body to the last byte of its response, without its service's time.",
            ["route"],
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self._first_byte = Histogram(
            "onecard_http_first_byte_seconds",
            "Time from a request's body to the first byte of its response's body.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.routes: dict[str, RouteRecorder] = {}
        """By route, those that have had requests."""

    def of(self, route: str) -> "RouteRecorder":
        """The metrics of one route.

        Args:
            route: its path.

        Returns:
            Its recorder, the same each time.
        """
        recorder = self.routes.get(route)
        if recorder is None:
            cache = {value: self._cache.labels(route, value) for value in (*_CACHE_RESULTS, "none")}
            observed = self._overhead.labels(route), self._first_byte.labels(route)
            recorder = self.routes[route] = RouteRecorder(cache, *observed, RecentDurations(self._clock))
        return recorder


class RouteRecorder:
    """Metrics of one route."""

    def __init__(
        self, cache: dict[str, Counter], overhead: Histogram, first_byte: Histogram, recent: RecentDurations
    ) -> None:
        """Hold the children.

        Args:
            cache: counter by value of `x-cache`.
            overhead: time without the service.
            first_byte: time to the first byte.
            recent: durations of the last minutes.
        """
        self._cache = cache
        self._overhead = overhead
        self.first_byte = first_byte
        """Seconds until the body of a response begins."""
        self.percentiles = recent

    def responded(self, cache: str, seconds: float, upstream_seconds: float | None) -> None:
        """Record a complete response.

        Args:
            cache: its `x-cache`; unknown values, which a service may send, count as `none`.
            seconds: its duration.
            upstream_seconds: the service's part of it; None if another request has waited for the service.
        """
        self._cache[cache if cache in _CACHE_RESULTS else "none"].inc()
        self.percentiles.add(seconds)
        if upstream_seconds is not None:
            self._overhead.observe(max(seconds - upstream_seconds, 0.0))
