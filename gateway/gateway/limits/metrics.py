"""What the limits count."""

from prometheus_client import CollectorRegistry, Counter

from onecard.redis.metrics import RedisMetrics


class RateLimitMetrics(RedisMetrics):
    """Figures of the limits, in one app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("onecard_limits", registry)
        self._requests = Counter(
            "onecard_limits_requests_total",
            "Requests of keys with limits, by outcome; kept in memory: each gateway counted by itself, Redis was away.",
            ["caller", "outcome", "kept_in"],
            registry=registry,
        )
        self._tokens = Counter(
            "onecard_limits_tokens_total", "Tokens counted against a key's limit.", ["caller"], registry=registry
        )
        # Children are kept: to look one up takes longer than to count.
        self._decision_counters: dict[tuple[str, str, str], Counter] = {}
        self._token_counters: dict[str, Counter] = {}

    def count_decision(self, caller: str, outcome: str, kept_in: str) -> None:
        """Count one request; `kept_in` is `redis` or `memory`."""
        child = self._decision_counters.get((caller, outcome, kept_in))
        if child is None:
            child = self._decision_counters[caller, outcome, kept_in] = self._requests.labels(caller, outcome, kept_in)
        child.inc()

    def count_tokens(self, caller: str, tokens: int) -> None:
        """Count tokens."""
        child = self._token_counters.get(caller)
        if child is None:
            child = self._token_counters[caller] = self._tokens.labels(caller)
        child.inc(tokens)
