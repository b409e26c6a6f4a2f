"""What the limits count."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.metrics import SECONDS


class LimitsMetrics:
    """Figures of the limits, in one app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "onecard_limits_requests_total",
            "Requests of keys with limits, by outcome; kept in memory: each gateway counted by itself, Redis was away.",
            ["caller", "outcome", "kept_in"],
            registry=registry,
        )
        self._tokens = Counter(
            "onecard_limits_tokens_total", "Tokens counted against a key's limit.", ["caller"], registry=registry
        )
        self._failures = Counter(
            "onecard_limits_redis_failures_total",
            "Round trips and connections to Redis that failed, by reason.",
            ["operation", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "onecard_limits_redis_seconds",
            "Time of one round trip to Redis that was answered.",
            ["operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self._up = Gauge("onecard_limits_redis_up", "Whether Redis can be used.", ["operation"], registry=registry)

    def decided(self, caller: str, outcome: str, kept_in: str) -> None:
        """Count one request; `kept_in` is `redis` or `memory`."""
        self._requests.labels(caller, outcome, kept_in).inc()

    def spent(self, caller: str, tokens: int) -> None:
        """Count tokens."""
        self._tokens.labels(caller).inc(tokens)

    def round_trip(self, operation: str, seconds: float) -> None:
        """Note the time of one answered round trip."""
        self._seconds.labels(operation).observe(seconds)

    def failed(self, operation: str, reason: str) -> None:
        """Count one failure."""
        self._failures.labels(operation, reason).inc()

    def up(self, operation: str, is_up: bool) -> None:
        """Note whether Redis can be used."""
        self._up.labels(operation).set(is_up)
