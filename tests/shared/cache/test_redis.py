"""The cache on a real Redis, well and sick."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from onecard.cache.keys import CacheKind
from onecard.cache.redis_tier import MAX_QUEUED, MAX_VALUE_BYTES
from onecard.cache.tiers import Cache, TypedCache
from tests.shared.cache.support import (
    RECOVERY_SECONDS,
    MetricsReader,
    RedisProcess,
    TextCodec,
    cache_on,
    eventually,
    running_redis,
)
from tests.support import free_port

KIND: CacheKind = "sentiment"
ANSWER_SECONDS = 0.05
"""The default of `REDIS_ANSWER_MS`."""
NOISE_SECONDS = 0.45
"""What a busy test machine may add to the promised wait. The bound is the promise; this keeps a stall of
the machine from looking like one of the cache, and is far below any time-out that might hide in its place."""

LOOKUPS = "onecard_cache_lookups_total"
WRITES = "onecard_cache_writes_total"


def key(number: int) -> bytes:
    """A key."""
    return b"onecard:sentiment:m@r:f:%040d" % number


async def timed_get(cache: Cache, keys: list[bytes]) -> tuple[list[bytes | None], float]:
    """What is found, and the seconds it took."""
    started = time.perf_counter()
    found = await cache.get_many(KIND, keys)
    return found, time.perf_counter() - started


async def stored(figures: MetricsReader, values: int) -> None:
    """Wait until so many values are in Redis."""
    await eventually(lambda: figures(WRITES, tier="redis", outcome="stored") >= values)


async def fill(cache: Cache, figures: MetricsReader, values: int = 3) -> list[bytes]:
    """Store values 0, 1, 2…, and wait until they are in Redis. Returns their keys."""
    keys = [key(number) for number in range(values)]
    before = figures(WRITES, tier="redis", outcome="stored")
    cache.set_many(KIND, [(one, b"v%d" % number) for number, one in enumerate(keys)], 60)
    await stored(figures, int(before) + values)
    return keys


async def works(cache: Cache, figures: MetricsReader) -> None:
    """The cache is well: what is stored is found, in Redis; not at once where this machine is slower than its bound."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    found: Sequence[bytes | None] = ()
    while found != [b"v0", b"v1", b"v2"]:
        assert time.monotonic() < deadline, found
        await eventually(lambda: cache.status() == "ok")
        found = await cache.get_many(KIND, await fill(cache, figures))


async def test_values_are_shared_between_processes(redis: RedisProcess, figures: MetricsReader) -> None:
    """What one stores, another finds; what nobody stored is a miss; order and repetition are the caller's."""
    async with cache_on(redis.port, figures) as one, cache_on(redis.port, other := MetricsReader()) as two:
        keys = await fill(one, figures)
        assert await two.get_many(KIND, [keys[2], key(99), keys[0], keys[2]]) == [b"v2", None, b"v0", b"v2"]
        assert other(LOOKUPS, kind=KIND, tier="redis", outcome="hit") == 2
        assert other(LOOKUPS, kind=KIND, tier="redis", outcome="miss") == 1


async def test_a_request_is_one_round_trip(redis: RedisProcess, figures: MetricsReader) -> None:
    """However many keys it has, and only for those that memory lacks."""
    async with cache_on(redis.port, figures, cache_memory_mb=8) as cache:
        await eventually(lambda: cache.status() == "ok")
        await fill(cache, figures, 5)
        async with cache_on(redis.port, other := MetricsReader(), cache_memory_mb=8) as fresh:
            before = other("onecard_cache_redis_seconds_count", operation="read")
            assert None not in await fresh.get_many(KIND, [key(n) for n in range(5)])
            assert other("onecard_cache_redis_seconds_count", operation="read") - before == 1
            assert None not in await fresh.get_many(KIND, [key(n) for n in range(5)])
            assert other("onecard_cache_redis_seconds_count", operation="read") - before == 1, "now in memory"
            assert other(LOOKUPS, tier="memory", outcome="hit") == 5


async def test_thousands_of_vectors_are_stored_and_found(redis: RedisProcess, figures: MetricsReader) -> None:
    """Megabytes through a socket in both directions, byte for byte, for several requests at a time."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        items = [(key(number), number.to_bytes(4, "little") * 768) for number in range(2048)]
        cache.set_many(KIND, items, 60)
        await stored(figures, 2048)
        wanted = [value for _, value in items]
        crowd = await asyncio.gather(*(cache.get_many(KIND, [one for one, _ in items]) for _ in range(4)))
        # A machine that stalls may cost an answer; it may not cost a wrong one.
        assert all(found in (wanted, [None] * 2048) for found in crowd)


async def test_values_expire(redis: RedisProcess, figures: MetricsReader) -> None:
    """In Redis, by its own clock, and their time does not begin anew in the memory of who read them last."""
    async with cache_on(redis.port, figures, cache_memory_mb=8) as cache:
        await eventually(lambda: cache.status() == "ok")
        cache.set_many(KIND, [(key(0), b"v")], 1)
        await stored(figures, 1)
        async with cache_on(redis.port, MetricsReader(), cache_memory_mb=8) as other:
            assert await other.get_many(KIND, [key(0)]) == [b"v"]
            await asyncio.sleep(2.1)
            assert await other.get_many(KIND, [key(0)]) == [None]
        assert redis.command("EXISTS", key(0)) == b":0\r\n"


async def test_a_corrupted_value_is_a_miss_counted_and_overwritten(redis: RedisProcess, figures: MetricsReader) -> None:
    """Changed, cut, or another key's: it is not served."""
    async with cache_on(redis.port, figures) as cache:
        keys = await fill(cache, figures)
        redis.command("SETRANGE", keys[0], "20", "X")
        redis.command("SET", keys[1], "junk")
        redis.command("COPY", keys[2], key(7))
        redis.command("DEL", keys[2])
        redis.command("LPUSH", keys[2], "a list")
        assert await cache.get_many(KIND, [*keys, key(7)]) == [None] * 4
        assert figures(LOOKUPS, tier="redis", outcome="corrupt") == 3
        assert cache.status() == "ok"
        await works(cache, figures)


async def test_what_does_not_decode_is_not_served(redis: RedisProcess, figures: MetricsReader) -> None:
    """Whole bytes that are not what the codec writes are a miss, and leave memory."""
    async with cache_on(redis.port, figures, cache_memory_mb=8) as cache:
        store = TypedCache(cache, KIND, TextCodec(), 60)
        cache.set_many(KIND, [(key(0), b"\xff")], 60)
        store.set_many([(key(1), "맛")])
        assert await store.get_many([key(0), key(1), key(2)]) == [None, "맛", None]
        assert figures(LOOKUPS, outcome="corrupt") == 1


@pytest.mark.parametrize("values", [3, 2048])
async def test_a_frozen_redis_costs_one_wait_and_then_nothing(
    redis: RedisProcess, figures: MetricsReader, values: int
) -> None:
    """50 ms for those who are asking when it freezes; then at once; then it heals. Nothing is left behind."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        keys = await fill(cache, figures, values)
        tasks = len(asyncio.all_tasks())
        redis.freeze()
        crowd = await asyncio.gather(*(timed_get(cache, keys) for _ in range(20)))
        assert max(seconds for _, seconds in crowd) < ANSWER_SECONDS + NOISE_SECONDS
        assert all(found == [None] * values for found, _ in crowd)
        assert cache.status() == "degraded"
        calm = [await timed_get(cache, keys) for _ in range(20)]
        assert sum(seconds for _, seconds in calm) < ANSWER_SECONDS + NOISE_SECONDS, "nobody waits any more"
        await asyncio.sleep(1)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 3)  # Attempts to connect, one a channel.
        redis.thaw()
        await works(cache, figures)
        await eventually(lambda: redis.connections() <= 3 * 5)


async def test_a_redis_that_freezes_while_nobody_asks_is_noticed(redis: RedisProcess, figures: MetricsReader) -> None:
    """Readiness says so by itself, and the next request does not wait."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        redis.freeze()
        await eventually(lambda: cache.status() == "degraded")
        redis.thaw()
        await eventually(lambda: cache.status() == "ok")


async def test_a_killed_redis_is_used_again_when_it_is_back_empty(redis: RedisProcess, figures: MetricsReader) -> None:
    """Gone is a miss at once; a restart without its data is a miss; then it serves again."""
    async with cache_on(redis.port, figures) as cache:
        keys = await fill(cache, figures)
        redis.kill()
        found, seconds = await timed_get(cache, keys)
        assert found == [None] * 3
        assert seconds < ANSWER_SECONDS + NOISE_SECONDS
        await eventually(lambda: cache.status() == "degraded")
        redis.start()
        await eventually(lambda: cache.status() == "ok")
        assert await cache.get_many(KIND, keys) == [None] * 3
        await works(cache, figures)


async def test_a_service_starts_without_redis_and_finds_it_later(tmp_path: Path, figures: MetricsReader) -> None:
    """Its start is not held up; memory serves meanwhile."""
    absent = RedisProcess(tmp_path)
    started = time.perf_counter()
    async with cache_on(absent.port, figures, cache_memory_mb=8) as cache:
        assert time.perf_counter() - started < 2
        assert cache.status() == "degraded"
        assert cache.detail() is not None
        cache.set_many(KIND, [(key(0), b"v")], 60)
        assert await cache.get_many(KIND, [key(0), key(1)]) == [b"v", None]
        try:
            absent.start()
            await works(cache, figures)
            assert cache.detail() is None
        finally:
            absent.kill()


async def test_a_full_redis_still_answers_reads(tmp_path: Path, figures: MetricsReader) -> None:
    """Writes are dropped and counted, readiness says degraded, reads go on; room makes it well again."""
    with running_redis(tmp_path, "--maxmemory-policy", "noeviction") as redis:
        async with cache_on(redis.port, figures) as cache:
            keys = await fill(cache, figures)
            redis.command("CONFIG", "SET", "maxmemory", "1mb")
            redis.command("SET", "ballast", b"x" * 30_000)
            cache.set_many(KIND, [(key(number), b"x" * 5000) for number in range(100, 400)], 60)
            await eventually(lambda: cache.status() == "degraded")
            assert figures(WRITES, tier="redis", outcome="dropped") > 0
            assert figures("onecard_cache_redis_failures_total", operation="write", reason="server_oom") > 0
            assert await cache.get_many(KIND, keys) == [b"v0", b"v1", b"v2"]
            assert figures("onecard_cache_redis_up", operation="read") == 1
            redis.command("CONFIG", "SET", "maxmemory", "0")
            await works(cache, figures)


async def test_a_read_only_redis_still_answers_reads(redis: RedisProcess, figures: MetricsReader) -> None:
    """A replica, or a primary that has become one."""
    async with cache_on(redis.port, figures) as cache:
        keys = await fill(cache, figures)
        redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
        await eventually(lambda: cache.status() == "degraded")
        assert await cache.get_many(KIND, keys) == [b"v0", b"v1", b"v2"]
        redis.command("REPLICAOF", "NO", "ONE")
        await works(cache, figures)


async def test_a_password_in_the_address_is_used(tmp_path: Path, figures: MetricsReader) -> None:
    """And the database; without it nothing works, and nothing breaks."""
    with running_redis(tmp_path, "--requirepass", "s3cret:/@") as redis:
        url = f"redis://:s3cret%3A%2F%40@127.0.0.1:{redis.port}/3"
        async with cache_on(0, figures, redis_url=url, redis_port=1) as cache:
            await works(cache, figures)
        async with cache_on(redis.port, other := MetricsReader()) as locked_out:
            assert locked_out.status() == "degraded"
            assert await locked_out.get_many(KIND, [key(0)]) == [None]
            assert other("onecard_cache_redis_failures_total", operation="connect", reason="server_noauth") >= 2
            redis.command("AUTH", "s3cret:/@")


async def test_a_password_that_is_demanded_later_stops_reads_and_writes(
    redis: RedisProcess, figures: MetricsReader
) -> None:
    """An answer that is an error is not taken for an empty one."""
    async with cache_on(redis.port, figures) as cache:
        await fill(cache, figures)
        redis.command("ACL", "SETUSER", "default", "-mget")
        assert await cache.get_many(KIND, [key(0)]) == [None]
        assert figures(LOOKUPS, tier="redis", outcome="error") == 1
        assert cache.status() == "degraded"
        redis.command("ACL", "SETUSER", "default", "+mget")
        await works(cache, figures)


async def test_writes_never_hold_up_the_caller(redis: RedisProcess, figures: MetricsReader) -> None:
    """Into a frozen Redis, more than the queue takes: at once, in bounded memory, every drop counted."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        redis.freeze()
        values = MAX_QUEUED + 500
        cache.set_many(KIND, [(key(number), b"v") for number in range(values)], 60)
        assert figures(WRITES, tier="redis", outcome="dropped") == 500
        await eventually(lambda: figures(WRITES, tier="redis", outcome="dropped") == values)
        redis.thaw()
        await works(cache, figures)


async def test_no_time_to_live_is_too_long(redis: RedisProcess, figures: MetricsReader) -> None:
    """A setting of a thousand years is one of many."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        cache.set_many(KIND, [(key(0), b"v")], 1000 * 366 * 86400)
        await stored(figures, 1)
        assert await cache.get_many(KIND, [key(0)]) == [b"v"]


async def test_large_values_stay_out_of_redis(redis: RedisProcess, figures: MetricsReader) -> None:
    """They would hold up what is behind them; memory takes them if they fit."""
    async with cache_on(redis.port, figures, cache_memory_mb=4) as cache:
        await eventually(lambda: cache.status() == "ok")
        cache.set_many(KIND, [(key(0), b"x" * (MAX_VALUE_BYTES + 1)), (key(1), b"x" * 5_000_000)], 60)
        assert figures(WRITES, tier="redis", outcome="dropped") == 2
        assert [value is None for value in await cache.get_many(KIND, [key(0), key(1)])] == [False, True]


async def test_closing_writes_out_what_waits(redis: RedisProcess, figures: MetricsReader) -> None:
    """A service that stops loses nothing that Redis could take."""
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        cache.set_many(KIND, [(key(number), b"v") for number in range(1000)], 60)
    assert figures(WRITES, tier="redis", outcome="stored") == 1000
    assert redis.connections() == 0


async def test_closing_does_not_wait_for_a_frozen_redis(redis: RedisProcess, figures: MetricsReader) -> None:
    """A stopping service has better things to do. No task is left."""
    before = len(asyncio.all_tasks())
    async with cache_on(redis.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        redis.freeze()
        cache.set_many(KIND, [(key(number), b"v") for number in range(1000)], 60)
        started = time.perf_counter()
    assert time.perf_counter() - started < 0.5 + NOISE_SECONDS
    assert len(asyncio.all_tasks()) == before


async def test_a_request_that_is_cancelled_disturbs_no_other(redis: RedisProcess, figures: MetricsReader) -> None:
    """All share a connection: those who stay get their own values, not those of who left."""
    async with cache_on(redis.port, figures) as cache:
        keys = await fill(cache, figures, 200)
        connections = redis.connections()
        tasks = [asyncio.create_task(cache.get_many(KIND, [one])) for one in keys]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes[1::2] == [[b"v%d" % number] for number in range(1, 200, 2)]
        assert redis.connections() == connections


async def test_a_busy_event_loop_is_not_taken_for_a_silent_redis(redis: RedisProcess, figures: MetricsReader) -> None:
    """What Redis answered while this process was computing is read, however late."""
    async with cache_on(redis.port, figures) as cache:
        keys = await fill(cache, figures)
        for _ in range(3):
            task = asyncio.create_task(cache.get_many(KIND, keys))
            await asyncio.sleep(0)
            time.sleep(3 * ANSWER_SECONDS)  # noqa: ASYNC251  (the stall is the point)
            assert await task == [b"v0", b"v1", b"v2"]
        assert cache.status() == "ok"


@pytest.mark.parametrize("memory", [0, 8])
async def test_a_cache_that_is_turned_off_keeps_nothing(
    redis: RedisProcess, figures: MetricsReader, memory: int
) -> None:
    """And is healthy, and asks nobody."""
    async with cache_on(redis.port, figures, cache_enabled=False, cache_memory_mb=memory) as cache:
        cache.set_many(KIND, [(key(0), b"v")], 60)
        assert await cache.get_many(KIND, [key(0)]) == [None]
        assert cache.status() == "ok"
        assert redis.connections() == 0
        assert figures(LOOKUPS) == 0
