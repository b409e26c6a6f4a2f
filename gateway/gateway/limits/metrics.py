"""Metrics of the rate limits."""

from prometheus_client import CollectorRegistry, Counter

from onecard.redis.metrics import RedisMetrics


class RateLimitMetrics(RedisMetrics):
    """Metrics of the rate limits and of their Redis channel."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: where.
        """
        super().__init__("onecard_limits", registry)
        self._requests = Counter(
            "onecard_limits_requests_total",
            "Requests of keys with limits, by outcome. kept_in=memory: Redis was unavailable, and counts local.",
            ["caller", "outcome", "kept_in"],
            registry=registry,
        )
        self._tokens = Counter(
            "onecard_limits_tokens_total", "Tokens counted against a key's limit.", ["caller"], registry=registry
        )
        # Children are kept, because looking one up takes longer than counting.
        self._decision_counters: dict[tuple[str, str, str], Counter] = {}
        self._token_counters: dict[str, Counter] = {}

    def count_decision(self, caller: str, outcome: str, kept_in: str) -> None:
        """Count a decision.

        Args:
            caller: name of the key.
            outcome: an `AdmissionOutcome`.
            kept_in: `redis` or `memory`.
        """
        child = self._decision_counters.get((caller, outcome, kept_in))
        if child is None:
            child = self._decision_counters[caller, outcome, kept_in] = self._requests.labels(caller, outcome, kept_in)
        child.inc()

    def count_tokens(self, caller: str, tokens: int) -> None:
        """Count tokens against a key's limit.

        Args:
            caller: name of the key.
            tokens: of prompt and response.
        """
        child = self._token_counters.get(caller)
        if child is None:
            child = self._token_counters[caller] = self._tokens.labels(caller)
        child.inc(tokens)
