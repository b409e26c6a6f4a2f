"""Popular restaurants and searches, learned from traffic. All replicas share them in sorted sets in Redis.

No request waits for Redis: visits are counted in memory and sent once a second. Scores use Redis's clock, so replicas
agree even if their own clocks differ. While Redis is unreachable they are counted on, and no request fails.
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
"""Interval between two flushes to Redis."""
MAX_SUBJECTS = 1_000
"""Maximum number of subjects of each kind, in Redis and between two flushes. `review_service.precompute.decay` says how
exact the counts are."""
MAX_SUBJECT_BYTES = 2_000
"""Longer subjects are not recorded."""
_EXPIRY_HALF_LIVES = 14
"""A set without a visit for this many half-lives expires: a visit would count 1/16,384."""

# `review_service.precompute.decay.add_visits` in Redis, where the visits of all replicas are added up. Lua's numbers
# are doubles too, and 17 digits represent a double exactly.
_RECORD_SCRIPT = """
local time = redis.call('TIME')
local half_life, max_subjects, expiry = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local now = (time[1] + time[2] / 1e6) / half_life
local function log2(x) return math.log(x) / math.log(2) end
for index = 4, #ARGV, 2 do
  local subject, added = ARGV[index], now + log2(tonumber(ARGV[index + 1]))
  local score = redis.call('ZSCORE', KEYS[1], subject)
  if not score and redis.call('ZCARD', KEYS[1]) >= max_subjects then
    score = redis.call('ZPOPMIN', KEYS[1])[2]
  end
  if score then
    local high, low = math.max(tonumber(score), added), math.min(tonumber(score), added)
    added = high + log2(1 + 2 ^ (low - high))
  end
  redis.call('ZADD', KEYS[1], string.format('%.17g', added), subject)
end
redis.call('EXPIRE', KEYS[1], expiry)
return 'OK'
"""

# A script, so that time and set come from the same server.
_TOP_SCRIPT = "return {redis.call('TIME')[1], redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1], 'WITHSCORES')}"


@dataclass(frozen=True)
class PopularSubject:
    """A popular restaurant or search."""

    subject: str
    """Id of the restaurant, or canonical JSON of the search."""
    weighted_visits: float
    """Number of visits, each weighted by its age."""


class Popularity:
    """The visits of one kind of subject."""

    def __init__(
        self, kind: str, half_life_seconds: int, channel: RedisChannel, max_subjects: int = MAX_SUBJECTS
    ) -> None:
        """Store at most `max_subjects` subjects of this kind. The caller opens and closes `channel`."""
        # The key has the half-life, because scores of different half-lives cannot be compared.
        self._key = f"onecard:popular:{kind}:{half_life_seconds}"
        self._half_life = half_life_seconds
        self._max_subjects = max_subjects
        self._channel = channel
        self._pending: Counter[str] = Counter()

    def record(self, subject: str) -> None:
        """Count one visit, to be sent with the next flush.

        Args:
            subject: Id of the restaurant or canonical JSON of the search. It is ignored if it is longer than
                `MAX_SUBJECT_BYTES`, or if the maximum number of other subjects is already pending.
        """
        if len(subject.encode()) <= MAX_SUBJECT_BYTES and (
            subject in self._pending or len(self._pending) < self._max_subjects
        ):
            self._pending[subject] += 1

    async def flush(self) -> None:
        """Send the counted visits to Redis, if it is there. If it goes away meanwhile they are lost."""
        if not self._pending or not self._channel.up:
            return
        pending, self._pending = self._pending, Counter()
        expiry_seconds = self._half_life * _EXPIRY_HALF_LIVES
        arguments: list[str | int] = [self._half_life, self._max_subjects, expiry_seconds]
        for subject, visits in pending.items():
            arguments += (subject, visits)
        await self._execute(("EVAL", _RECORD_SCRIPT, 1, self._key, *arguments))

    async def top(self, count: int) -> list[PopularSubject]:
        """Read the most popular subjects of all replicas' traffic.

        Args:
            count: Maximum number of subjects, at least 1.

        Returns:
            The subjects, most popular first; empty while Redis is unreachable.
        """
        match await self._execute(("EVAL", _TOP_SCRIPT, 1, self._key, count - 1)):
            case [[bytes(seconds), list(reply)]]:
                now, half_life = int(seconds), self._half_life
                pairs = zip(reply[::2], reply[1::2], strict=True)
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
    """What users of all replicas request."""

    restaurants: Popularity
    """By id."""
    queries: Popularity
    """By the canonical JSON of a search."""
    channel: RedisChannel
    """The connection to Redis. Code with few commands, such as the round status, may use it too."""

    async def flush_forever(self) -> None:
        """Flush at a fixed interval until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.restaurants.flush()
            await self.queries.flush()


@asynccontextmanager
async def open_popularity(
    address: RedisAddress, half_life_seconds: int, registry: CollectorRegistry, breaker: SharedBreaker | None = None
) -> AsyncIterator[PopularityTracker]:
    """Record popularity in Redis until the end of the block, then flush once more.

    Args:
        address: Address of Redis. It does not have to be reachable.
        half_life_seconds: Time after which a visit counts half.
        registry: Where the metrics are registered.
        breaker: Shared with the process's other channels to the same Redis; None if there are none.

    Yields:
        The tracker, which flushes in the background.

    Raises:
        OSError: The certificates that REDIS_URL names cannot be read.
    """
    metrics = RedisMetrics("onecard_popularity", registry)
    probe = ("SET", "onecard:probe", b"", "PX", 1000)
    channel = RedisChannel("popularity", address, metrics, probe=probe, shared_breaker=breaker)
    await channel.start()
    restaurants, queries = (Popularity(kind, half_life_seconds, channel) for kind in ("restaurants", "queries"))
    tracker = PopularityTracker(restaurants, queries, channel)
    flushing = asyncio.create_task(tracker.flush_forever(), name="popularity")
    try:
        yield tracker
    finally:
        flushing.cancel()
        await asyncio.wait([flushing])
        await tracker.restaurants.flush()
        await tracker.queries.flush()
        await channel.close()
