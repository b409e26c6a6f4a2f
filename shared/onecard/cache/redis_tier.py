"""The cache tier in Redis, shared by all processes. A request waits for a silent Redis at most `REDIS_ANSWER_MS`."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onecard import logs
from onecard.cache.keys import CacheKind
from onecard.cache.metrics import CacheMetrics
from onecard.cache.serialization import SEAL_BYTES, seal
from onecard.redis.address import RedisAddress
from onecard.redis.autopipeline import MAX_BATCH_ITEMS, RedisUnavailable
from onecard.redis.channel import RedisChannel, SharedBreaker

log = logs.logger()

MAX_VALUE_BYTES = 1_000_000
"""Larger values are not stored in Redis: they would delay everything behind them on the connection."""

MAX_QUEUED = 10_000
MAX_QUEUED_BYTES = 16_000_000
"""Limits of the write queue, in values and in bytes; further values are dropped and counted."""

_READ_PROBE = ("MGET", "onecard:probe")
_WRITE_PROBE = ("SET", "onecard:probe", b"", "PX", 1000)
"""A write, because a full Redis or a replica still answers reads."""

_BATCH_VALUES = 128
_BATCH_BYTES = 250_000
_FLUSH_SECONDS = 0.5


@dataclass(frozen=True)
class QueuedWrite:
    """A value to store in Redis."""

    kind: CacheKind
    key: bytes
    payload: bytes
    expires_at: int
    """Unix seconds."""

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes in the queue."""
        return len(self.key) + len(self.payload)


class RedisTier:
    """Sealed values by key. Reads are answered in time or given up; writes happen in the background."""

    def __init__(
        self, address: RedisAddress, metrics: CacheMetrics, clock: Callable[[], float], shared_breaker: SharedBreaker
    ) -> None:
        """Prepare the channels; `start` connects them.

        Args:
            address: of Redis.
            metrics: of the cache.
            clock: gives Unix seconds.
            shared_breaker: of all channels of this process to the same Redis.
        """
        self._metrics = metrics
        self._clock = clock
        self._reads = RedisChannel("read", address, metrics, probe=_READ_PROBE, shared_breaker=shared_breaker)
        # On connections of their own, so that small reads do not queue behind megabytes.
        self._bulk = RedisChannel("bulk", address, metrics, probe=_READ_PROBE, shared_breaker=shared_breaker)
        self._writes = RedisChannel("write", address, metrics, probe=_WRITE_PROBE, shared_breaker=shared_breaker)
        self._channels = (self._reads, self._bulk, self._writes)
        self._queue: deque[QueuedWrite] = deque()
        self._queued_bytes = 0
        self._not_empty = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None

    @property
    def failing_operations(self) -> list[str]:
        """Which of `reads`, `bulk reads` and `writes` are not available now."""
        names = {"read": "reads", "bulk": "bulk reads", "write": "writes"}
        return [names[channel.operation] for channel in self._channels if not channel.up]

    async def start(self) -> None:
        """Connect; if Redis cannot be reached, the channels keep trying in the background."""
        await asyncio.gather(*(channel.start() for channel in self._channels))
        self._writer = asyncio.create_task(self._write_loop(), name="cache-writer")

    async def close(self) -> None:
        """Write what is queued, for at most half a second, and disconnect."""
        if self._writer is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._idle.wait()
            self._writer.cancel()
            await asyncio.wait([self._writer])
        self._drop_queue()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """Read values in one round trip.

        Args:
            keys: to look up.

        Returns:
            The sealed value under each key, in order, None where there is none; None altogether if Redis is
            unavailable.
        """
        channel = self._bulk if len(keys) >= MAX_BATCH_ITEMS else self._reads
        try:
            return [value if isinstance(value, bytes) else None for value in await channel.mget(keys)]
        except RedisUnavailable:
            return None

    def set(self, write: QueuedWrite) -> None:
        """Queue a value for writing, without waiting. It is dropped and counted if Redis is down or too slow.

        Args:
            write: the value, its key and its expiry.
        """
        full = len(self._queue) >= MAX_QUEUED or self._queued_bytes + write.size_bytes > MAX_QUEUED_BYTES
        if full or not self._writes.up or len(write.payload) > MAX_VALUE_BYTES:
            self._metrics.dropped(write.kind, "redis")
            return
        self._queue.append(write)
        self._queued_bytes += write.size_bytes
        self._idle.clear()
        self._not_empty.set()

    async def _write_loop(self) -> None:
        while True:
            await self._not_empty.wait()
            if not self._writes.up:
                self._drop_queue()
            batch = self._take_batch()
            if not batch:
                self._not_empty.clear()
                self._idle.set()
                continue
            try:
                await self._write(batch)
            except Exception:
                log.exception("cache batch was not written")  # A bug in this code; the next batch may still succeed.
                self._count_dropped(batch)

    def _take_batch(self) -> list[QueuedWrite]:
        batch: list[QueuedWrite] = []
        size = 0
        while self._queue and len(batch) < _BATCH_VALUES and size < _BATCH_BYTES:
            write = self._queue.popleft()
            self._queued_bytes -= write.size_bytes
            size += write.size_bytes
            batch.append(write)
        return batch

    async def _write(self, batch: list[QueuedWrite]) -> None:
        now = self._clock()
        sealed = [seal(write.key, write.payload, write.expires_at) for write in batch]
        commands = [
            ("SET", write.key, value, "PX", max(1, round((write.expires_at - now) * 1000)))
            for write, value in zip(batch, sealed, strict=True)
        ]
        try:
            await self._writes.call(*commands)
        except RedisUnavailable:
            self._count_dropped(batch)
            return
        for kind, values in _by_kind(batch).items():
            self._metrics.wrote(kind, "redis", len(values), sum(len(write.payload) + SEAL_BYTES for write in values))

    def _drop_queue(self) -> None:
        self._count_dropped(self._queue)
        self._queue.clear()
        self._queued_bytes = 0

    def _count_dropped(self, writes: Iterable[QueuedWrite]) -> None:
        for kind, values in _by_kind(writes).items():
            self._metrics.dropped(kind, "redis", len(values))


def _by_kind(writes: Iterable[QueuedWrite]) -> dict[CacheKind, list[QueuedWrite]]:
    by_kind: dict[CacheKind, list[QueuedWrite]] = defaultdict(list)
    for write in writes:
        by_kind[write.kind].append(write)
    return by_kind
