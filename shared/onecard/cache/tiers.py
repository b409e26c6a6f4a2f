"""The cache as services use it: the process's own memory in front of the shared Redis."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry

from onecard.cache.keys import CacheKind
from onecard.cache.memory_tier import MemoryTier
from onecard.cache.metrics import CacheMetrics
from onecard.cache.redis_tier import QueuedWrite, RedisTier
from onecard.cache.serialization import MAX_EXPIRY, Codec, CorruptValue, unseal
from onecard.cache.settings import CacheSettings
from onecard.redis.channel import SharedBreaker

Stored = TypeVar("Stored")
Loaded = TypeVar("Loaded")

_YIELD_EVERY = 256
"""Values that are verified before the event loop may run other tasks: about 2 ms for vectors."""


class Cache:
    """Payloads by key, in two tiers. A value that fails verification is a miss."""

    def __init__(
        self, memory: MemoryTier | None, redis: RedisTier | None, metrics: CacheMetrics, clock: Callable[[], float]
    ) -> None:
        """Join the tiers; either may be missing.

        Args:
            memory: the process's tier; None for none.
            redis: the shared tier; None for none.
            metrics: of the cache.
            clock: gives Unix seconds.
        """
        self._memory = memory
        self._redis = redis
        self.metrics = metrics
        self._clock = clock

    @property
    def enabled(self) -> bool:
        """Whether there is any tier."""
        return self._memory is not None or self._redis is not None

    def in_memory(self) -> "Cache":
        """This cache without Redis: the same memory, for values that are not worth storing in both tiers."""
        return Cache(self._memory, None, self.metrics, self._clock)

    def status(self) -> Literal["ok", "degraded"]:
        """`degraded` while Redis does not work fully; requests are still answered."""
        return "degraded" if self._redis is not None and self._redis.failing_operations else "ok"

    def detail(self) -> str | None:
        """A sentence for operators on what does not work; None if everything does."""
        failing = self._redis.failing_operations if self._redis is not None else []
        return f"Redis: no {' and no '.join(failing)}. Repeated requests are computed anew." if failing else None

    async def get_many(self, kind: CacheKind, keys: Sequence[bytes]) -> list[bytes | None]:
        """Look up payloads: first in memory, then, for the missing ones, in one round trip to Redis.

        A fault of Redis raises nothing. A silent Redis is waited for at most `REDIS_ANSWER_MS`; hundreds of keys may
        take longer, see `AutoPipeline.execute`.

        Args:
            kind: of the values.
            keys: to look up; repetitions are allowed.

        Returns:
            The payload under each key, in order; None for a miss.
        """
        started = time.perf_counter()
        found = self._from_memory(kind, keys)
        missing = list(dict.fromkeys(key for key in keys if key not in found))
        queries_redis = bool(missing) and self._redis is not None
        if queries_redis:
            found |= await self._from_redis(kind, missing)
        if self.enabled and keys:
            self.metrics.observe_lookup_seconds(
                kind, "redis" if queries_redis else "memory", time.perf_counter() - started
            )
        return [found.get(key) for key in keys]

    def set_many(self, kind: CacheKind, items: Iterable[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """Store payloads: in memory now, in Redis soon. Does not wait; values that cannot be stored are counted.

        Args:
            kind: of the values.
            items: (key, payload) pairs.
            ttl_seconds: how long they are valid.
        """
        expires_at = min(math.ceil(self._clock() + ttl_seconds), MAX_EXPIRY)
        stored = dropped = size = 0
        for key, payload in items:
            if self._memory is not None:
                if self._memory.put(key, payload, expires_at):
                    stored += 1
                    size += len(payload)
                else:
                    dropped += 1
            if self._redis is not None:
                self._redis.set(QueuedWrite(kind, key, payload, expires_at))
        self.metrics.wrote(kind, "memory", stored, size)
        self.metrics.dropped(kind, "memory", dropped)

    def discard(self, key: bytes) -> None:
        """Remove a payload from memory."""
        if self._memory is not None:
            self._memory.discard(key)

    def _from_memory(self, kind: CacheKind, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if self._memory is None:
            return {}
        found: dict[bytes, bytes] = {}
        for key in keys:
            payload = self._memory.get(key)
            if payload is not None:
                found[key] = payload
        hits = sum(key in found for key in keys)
        self.metrics.looked_up(kind, "memory", "hit", hits)
        self.metrics.looked_up(kind, "memory", "miss", len(keys) - hits)
        self.metrics.read(kind, "memory", sum(map(len, found.values())))
        return found

    async def _from_redis(self, kind: CacheKind, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        sealed = await self._redis.get_many(keys) if self._redis is not None else None
        if sealed is None:
            self.metrics.looked_up(kind, "redis", "error", len(keys))
            return {}
        found: dict[bytes, bytes] = {}
        corrupt = 0
        for index, (key, value) in enumerate(zip(keys, sealed, strict=True)):
            if index and index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if value is None:
                continue
            try:
                payload, expires_at = unseal(key, value)
            except CorruptValue:
                corrupt += 1
                continue
            if self._clock() < expires_at:
                found[key] = self._share(key, payload, expires_at)
        self.metrics.looked_up(kind, "redis", "hit", len(found))
        self.metrics.looked_up(kind, "redis", "corrupt", corrupt)
        self.metrics.looked_up(kind, "redis", "miss", len(keys) - len(found) - corrupt)
        self.metrics.read(kind, "redis", sum(map(len, found.values())))
        return found

    def _share(self, key: bytes, payload: bytes, expires_at: float) -> bytes:
        """Put a payload of Redis into memory, unless one has come there meanwhile: take that, which may be newer."""
        if self._memory is None:
            return payload
        if (newer := self._memory.get(key)) is not None:
            return newer
        self._memory.put(key, payload, expires_at)
        return payload

    def is_in_memory(self, key: bytes) -> bool:
        """Whether a payload is in the process's memory now, so that all who look it up share its bytes."""
        return self._memory is not None and key in self._memory


class TypedCache(Generic[Stored, Loaded]):
    """A cache for values of one kind and type."""

    def __init__(self, cache: Cache, kind: CacheKind, codec: Codec[Stored, Loaded], ttl_seconds: int) -> None:
        """Wrap a cache.

        Args:
            cache: stores the payloads.
            kind: of the values.
            codec: between values and payloads.
            ttl_seconds: how long values are valid.
        """
        self._cache = cache
        self._kind = kind
        self._codec = codec
        self._ttl_seconds = ttl_seconds

    async def get_many(self, keys: Sequence[bytes]) -> list[Loaded | None]:
        """Look up values.

        Args:
            keys: repetitions are allowed.

        Returns:
            The value under each key, in order; None for a miss, and for a payload that does not decode.
        """
        payloads = await self._cache.get_many(self._kind, keys)
        return [self._decode(key, payload) for key, payload in zip(keys, payloads, strict=True)]

    def is_in_memory(self, key: bytes) -> bool:
        """Whether a value is in the process's memory now, so that all who look it up share its bytes."""
        return self._cache.is_in_memory(key)

    def set_many(self, items: Iterable[tuple[bytes, Stored]]) -> None:
        """Store values without waiting, except those that the codec rejects with ValueError.

        Args:
            items: (key, value) pairs.

        Raises:
            TypeError: a value is not of the codec's type.
        """
        encoded: list[tuple[bytes, bytes]] = []
        for key, value in items:
            try:
                encoded.append((key, self._codec.encode(value)))
            except ValueError:
                self._cache.metrics.dropped(self._kind, "memory")
        self._cache.set_many(self._kind, encoded, self._ttl_seconds)

    def _decode(self, key: bytes, payload: bytes | None) -> Loaded | None:
        if payload is None:
            return None
        try:
            return self._codec.decode(payload)
        except CorruptValue:
            self._cache.metrics.looked_up(self._kind, "memory", "corrupt")
            self._cache.discard(key)
            return None


@asynccontextmanager
async def open_cache(
    settings: CacheSettings, registry: CollectorRegistry, shared_breaker: SharedBreaker | None = None
) -> AsyncIterator[Cache]:
    """Open the cache that the settings describe, and close it at the end.

    Waits for Redis at most 1.1 s; without it the cache opens degraded and reconnects in the background.

    Args:
        settings: which tiers there are, and where Redis is.
        registry: for the metrics.
        shared_breaker: that of the process's other channels to the same Redis; None if there are none.

    Yields:
        The cache.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    metrics = CacheMetrics(registry)
    memory = redis = None
    if settings.cache_enabled:
        if settings.cache_memory_mb > 0:
            memory = MemoryTier(int(settings.cache_memory_mb * 1_000_000), time.time)
            metrics.watch_memory(lambda: memory.size_bytes)
        redis = RedisTier(settings.redis_address(), metrics, time.time, shared_breaker or SharedBreaker())
    try:
        if redis is not None:
            await redis.start()
        yield Cache(memory, redis, metrics, time.time)
    finally:
        if redis is not None:
            await redis.close()
