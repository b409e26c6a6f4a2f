"""What the cache counts, per kind of value and tier."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.cache.keys import CacheKind

Tier = Literal["memory", "redis"]
Lookup = Literal["hit", "miss", "corrupt", "error"]

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Histogram bounds, in seconds: from a round trip on one machine to past the 50 ms that Redis is given."""


class RedisMetrics:
    """Figures of channels to one Redis, by operation; names begin with `prefix`."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
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
            buckets=_SECONDS,
            registry=registry,
        )
        self._up = Gauge(f"{prefix}_redis_up", "Whether Redis can be used.", ["operation"], registry=registry)

    def round_trip(self, operation: str, seconds: float) -> None:
        """Note the time of one answered round trip."""
        self._seconds.labels(operation).observe(seconds)

    def failed(self, operation: str, reason: str) -> None:
        """Count one failure."""
        self._failures.labels(operation, reason).inc()

    def up(self, operation: str, is_up: bool) -> None:
        """Note whether Redis can be used for `operation`."""
        self._up.labels(operation).set(is_up)


class CacheMetrics(RedisMetrics):
    """Figures of one cache, in one app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("onecard_cache", registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onecard_cache_{name}_total", text, labels, registry=registry)

        lookups = "Keys looked up, by outcome; error: Redis was not asked or gave no answer."
        self._lookups = counter("lookups", lookups, "kind", "tier", "outcome")
        coalesced = "Results taken from a computation that another request had begun."
        self._coalesced = counter("coalesced", coalesced, "kind")
        writes = "Values handed to a tier, by outcome; dropped: too large, not a number, or Redis was slow or away."
        self._writes = counter("writes", writes, "kind", "tier", "outcome")
        self._bytes = counter("bytes", "Bytes of values read and written.", "kind", "tier", "direction")
        looking = "Time to look up all keys of a request, by the furthest tier that was asked."
        self._lookup_seconds = Histogram(
            "onecard_cache_lookup_seconds", looking, ["kind", "tier"], buckets=_SECONDS, registry=registry
        )
        self._memory_bytes = Gauge("onecard_cache_memory_bytes", "Bytes in the memory tier.", registry=registry)

    def looked_up(self, kind: CacheKind, tier: Tier, outcome: Lookup, keys: int = 1) -> None:
        """Count `keys` with this outcome."""
        if keys:
            self._lookups.labels(kind, tier, outcome).inc(keys)

    def lookup_took(self, kind: CacheKind, tier: Tier, seconds: float) -> None:
        """Note the time of one lookup; `tier` is the furthest that was asked."""
        self._lookup_seconds.labels(kind, tier).observe(seconds)

    def coalesced(self, kind: CacheKind, results: int = 1) -> None:
        """Count results that another request's computation gave."""
        if results:
            self._coalesced.labels(kind).inc(results)

    def wrote(self, kind: CacheKind, tier: Tier, values: int, size_bytes: int) -> None:
        """Count values stored, and their bytes."""
        if values:
            self._writes.labels(kind, tier, "stored").inc(values)
            self._bytes.labels(kind, tier, "written").inc(size_bytes)

    def dropped(self, kind: CacheKind, tier: Tier, values: int = 1) -> None:
        """Count values that were not stored."""
        if values:
            self._writes.labels(kind, tier, "dropped").inc(values)

    def read(self, kind: CacheKind, tier: Tier, size_bytes: int) -> None:
        """Count bytes of values found."""
        if size_bytes:
            self._bytes.labels(kind, tier, "read").inc(size_bytes)

    def watch_memory(self, size_bytes: Callable[[], int]) -> None:
        """Take the memory tier's size from `size_bytes` whenever it is asked for."""
        self._memory_bytes.set_function(size_bytes)
