"""What the cache counts, per kind of value and tier."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from onecard.cache.keys import CacheKind
from onecard.redis.metrics import ROUND_TRIP_BUCKETS, RedisMetrics

Tier = Literal["memory", "redis"]
LookupOutcome = Literal["hit", "miss", "corrupt", "error"]


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
            "onecard_cache_lookup_seconds", looking, ["kind", "tier"], buckets=ROUND_TRIP_BUCKETS, registry=registry
        )
        self._memory_bytes = Gauge("onecard_cache_memory_bytes", "Bytes in the memory tier.", registry=registry)

    def looked_up(self, kind: CacheKind, tier: Tier, outcome: LookupOutcome, keys: int = 1) -> None:
        """Count `keys` with this outcome."""
        if keys:
            self._lookups.labels(kind, tier, outcome).inc(keys)

    def observe_lookup_seconds(self, kind: CacheKind, tier: Tier, seconds: float) -> None:
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
