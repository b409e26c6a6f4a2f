"""What is asked for often: restaurants and queries, learned from traffic, in sorted sets that all replicas share.

Nobody waits for it: visits are noted in memory and told to Redis once a second. Redis's clock counts, so that
replicas agree whatever their own clocks say. While Redis is away nothing is learned, and nothing fails.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from onecard.redis.address import RedisAddress
from onecard.redis.autopipeline import RedisUnavailable
from onecard.redis.channel import RedisChannel, SharedBreaker
from onecard.redis.client import RedisCommand, RedisReply
from onecard.redis.metrics import RedisMetrics
from review_service.precompute import decay

FLUSH_SECONDS = 1.0
"""Between two rounds of telling Redis."""
MAX_SUBJECTS = 1_000
"""Kept of each sort, and noted in one round; see `review_service.precompute.decay` for what that loses."""
MAX_SUBJECT_BYTES = 2_000
"""A longer subject is not learned."""
_EXPIRY_HALF_LIVES = 14
"""Without a visit for so long, a set is dropped: of a visit 1/16,384 would be left."""

# `review_service.precompute.decay.add_visits`, done where all replicas' visits come together. Lua's numbers are
# doubles, too; 17 digits give one back as it was.
_RECORD_SCRIPT = """
local time = redis.call('TIME')
local half_life, most, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local now = (time[1] + time[2] / 1e6) / half_life
local function log2(x) return math.log(x) / math.log(2) end
for place = 4, #ARGV, 2 do
  local subject, raised = ARGV[place], now + log2(tonumber(ARGV[place + 1]))
  local score = redis.call('ZSCORE', KEYS[1], subject)
  if not score and redis.call('ZCARD', KEYS[1]) >= most then
    score = redis.call('ZPOPMIN', KEYS[1])[2]
  end
  if score then
    local high, low = math.max(tonumber(score), raised), math.min(tonumber(score), raised)
    raised = high + log2(1 + 2 ^ (low - high))
  end
  redis.call('ZADD', KEYS[1], string.format('%.17g', raised), subject)
end
redis.call('EXPIRE', KEYS[1], keep)
return 'OK'
"""

# One script, so that the clock is that of the server which has the set.
_TOP_SCRIPT = "return {redis.call('TIME')[1], redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1], 'WITHSCORES')}"


@dataclass(frozen=True)
class PopularSubject:
    """A subject that is asked for often."""

    subject: str
    weighted_visits: float
    """As they weigh now."""


class Popularity:
    """The visits of one sort of subject."""

    def __init__(self, sort: str, half_life_seconds: int, channel: RedisChannel, most: int = MAX_SUBJECTS) -> None:
        """Keep `most` subjects of this sort; `channel` is somebody else's to open and close."""
        # Scores are in half-lives: with another one they mean something else.
        self._key = f"onecard:popular:{sort}:{half_life_seconds}"
        self._half_life = half_life_seconds
        self._max_subjects = most
        self._channel = channel
        self._pending: Counter[str] = Counter()

    def record(self, subject: str) -> None:
        """One visit; told to Redis soon. Subjects beyond the bounds are left out."""
        if len(subject.encode()) <= MAX_SUBJECT_BYTES and (
            subject in self._pending or len(self._pending) < self._max_subjects
        ):
            self._pending[subject] += 1

    async def flush(self) -> None:
        """Tell Redis what was noted; lost if it gives no answer."""
        noted, self._pending = self._pending, Counter()
        if not noted:
            return
        keep = self._half_life * _EXPIRY_HALF_LIVES
        words: list[str | int] = [self._half_life, self._max_subjects, keep]
        for subject, visits in noted.items():
            words += (subject, visits)
        await self._execute(("EVAL", _RECORD_SCRIPT, 1, self._key, *words))

    async def top(self, count: int) -> list[PopularSubject]:
        """The `count` most popular of all replicas' traffic, the most popular first; empty while Redis is away."""
        match await self._execute(("EVAL", _TOP_SCRIPT, 1, self._key, count - 1)):
            case [[bytes(seconds), list(found)]]:
                now, half_life = int(seconds), self._half_life
                pairs = zip(found[::2], found[1::2], strict=True)
                return [
                    PopularSubject(subject.decode(), decay.decayed_visits(float(score), now, half_life))
                    for subject, score in pairs
                    if isinstance(subject, bytes) and isinstance(score, bytes)
                ]
        return []

    async def _execute(self, command: RedisCommand) -> list[RedisReply]:
        try:
            return await self._channel.call(command)
        except RedisUnavailable:
            return []


@dataclass(frozen=True)
class PopularityTracker:
    """What users of this service ask for, and of all its replicas."""

    restaurants: Popularity
    """By id."""
    queries: Popularity
    """By the canonical JSON of a search."""
    channel: RedisChannel
    """To Redis, for others that want little of it."""

    async def flush_forever(self) -> None:
        """Tell Redis, again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.restaurants.flush()
            await self.queries.flush()


@asynccontextmanager
async def open_popularity(
    address: RedisAddress, half_life_seconds: int, registry: CollectorRegistry, alarm: SharedBreaker | None = None
) -> AsyncIterator[PopularityTracker]:
    """Popularity in the Redis at `address`, which may be away; what was noted last is told at the end.

    `alarm` is that of the process's other channels to the same Redis, if it has any.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
    """
    metrics = RedisMetrics("onecard_popularity", registry)
    probe = ("SET", "onecard:probe", b"", "PX", 1000)
    channel = RedisChannel("popularity", address, metrics, probe=probe, shared_breaker=alarm)
    await channel.start()
    restaurants, queries = (Popularity(sort, half_life_seconds, channel) for sort in ("restaurants", "queries"))
    traffic = PopularityTracker(restaurants, queries, channel)
    telling = asyncio.create_task(traffic.flush_forever(), name="popularity")
    try:
        yield traffic
    finally:
        telling.cancel()
        await asyncio.wait([telling])
        await traffic.restaurants.flush()
        await traffic.queries.flush()
        await channel.close()
