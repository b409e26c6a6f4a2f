"""Prometheus metrics of the cache, by kind of value and by tier."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.cache.keys import CacheKind
from onecard.redis.metrics import ROUND_TRIP_BUCKETS, RedisMetrics

Tier = Literal["memory", "redis"]
LookupOutcome = Literal["hit", "miss", "corrupt", "error"]


class CacheMetrics(RedisMetrics):
    """Metrics of one cache, in its app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics.

        Args:
            registry: the app's.
        """
        super().__init__("onecard_cache", registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"onecard_cache_{name}_total", text, labels, registry=registry)

        lookups = "Keys looked up, by outcome; error: Redis was unavailable or did not reply."
        self._lookups = counter("lookups", lookups, "kind", "tier", "outcome")
        coalesced = "Results taken from a computation that another request had started."
        self._coalesced = counter("coalesced", coalesced, "kind")
        writes = "Values written to a tier, by outcome; dropped: too large, not finite, or Redis was slow or down."
        self._writes = counter("writes", writes, "kind", "tier", "outcome")
        self._bytes = counter("bytes", "Bytes of values read and written.", "kind", "tier", "direction")
        lookup_help = "Time to look up all keys of a request, by the last tier that was queried."
        self._lookup_seconds = Histogram(
            "onecard_cache_lookup_seconds", lookup_help, ["kind", "tier"], buckets=ROUND_TRIP_BUCKETS, registry=registry
        )
        self._memory_bytes = Gauge("onecard_cache_memory_bytes", "Bytes in the memory tier.", registry=registry)

    def looked_up(self, kind: CacheKind, tier: Tier, outcome: LookupOutcome, keys: int = 1) -> None:
        """Count lookups.

        Args:
            kind: of the values.
            tier: that was queried.
            outcome: of these lookups.
            keys: how many keys had this outcome.
        """
        if keys:
            self._lookups.labels(kind, tier, outcome).inc(keys)

    def observe_lookup_seconds(self, kind: CacheKind, tier: Tier, seconds: float) -> None:
        """Record the time of one lookup.

        Args:
            kind: of the values.
            tier: the last one that was queried.
            seconds: for all keys together.
        """
        self._lookup_seconds.labels(kind, tier).observe(seconds)

    def coalesced(self, kind: CacheKind, results: int = 1) -> None:
        """Count results that came from another request's computation."""
        if results:
            self._coalesced.labels(kind).inc(results)

    def wrote(self, kind: CacheKind, tier: Tier, values: int, size_bytes: int) -> None:
        """Count stored values.

        Args:
            kind: of the values.
            tier: that stored them.
            values: how many.
            size_bytes: of them all.
        """
        if values:
            self._writes.labels(kind, tier, "stored").inc(values)
            self._bytes.labels(kind, tier, "written").inc(size_bytes)

    def dropped(self, kind: CacheKind, tier: Tier, values: int = 1) -> None:
        """Count values that were not stored.

        Args:
            kind: of the values.
            tier: that did not store them.
            values: how many.
        """
        if values:
            self._writes.labels(kind, tier, "dropped").inc(values)

    def read(self, kind: CacheKind, tier: Tier, size_bytes: int) -> None:
        """Count bytes of values found.

        Args:
            kind: of the values.
            tier: that had them.
            size_bytes: of them all.
        """
        if size_bytes:
            self._bytes.labels(kind, tier, "read").inc(size_bytes)

    def watch_memory(self, size_bytes: Callable[[], int]) -> None:
        """Export the size of the memory tier.

        Args:
            size_bytes: called at each scrape.
        """
        self._memory_bytes.set_function(size_bytes)
