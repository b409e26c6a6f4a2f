"""Prometheus metrics of a Redis: round trips, failures, and whether it is available."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

ROUND_TRIP_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Histogram bounds in seconds, from a round trip on one machine to beyond the default timeout of 50 ms."""


class RedisMetrics:
    """Metrics of the channels to one Redis, by operation."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            prefix: of their names, such as `onecard_cache`.
            registry: the app's.
        """
        self._failures = Counter(
            f"{prefix}_redis_failures_total",
            "Round trips and connections to Redis that failed, by reason.",
            ["operation", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            f"{prefix}_redis_seconds",
            "Time of one round trip to Redis that was answered.",
            ["operation"],
            buckets=ROUND_TRIP_BUCKETS,
            registry=registry,
        )
        self._up = Gauge(f"{prefix}_redis_up", "Whether Redis can be used.", ["operation"], registry=registry)

    def observe_round_trip(self, operation: str, seconds: float) -> None:
        """Record the time of one answered round trip."""
        self._seconds.labels(operation).observe(seconds)

    def failed(self, operation: str, reason: str) -> None:
        """Count a failed round trip or connection."""
        self._failures.labels(operation, reason).inc()

    def set_available(self, operation: str, is_up: bool) -> None:
        """Record whether Redis is available for an operation."""
        self._up.labels(operation).set(is_up)
