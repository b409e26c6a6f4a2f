"""Several servers that are one: a primary that Sentinels move, and a Cluster. Real processes, killed for real."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from bench.redis_faults.redis import Cluster, FaultyRedis, SentinelGroup, cluster, sentinel_group
from onecard.cache.tiers import Cache
from tests.shared.cache.support import MetricsReader, cache_on, eventually
from tests.shared.cache.test_redis import ANSWER_SECONDS, KIND, NOISE_SECONDS, fill, key, timed_get, works

MOVING_SECONDS = 15.0
"""Sentinels take their time to agree: one second to notice, and an election."""
FAILURES = "onecard_cache_redis_failures_total"
KEYS = [key(number) for number in range(50)]


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with sentinel_group() as made:
        yield made


@pytest.fixture
def shards() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


async def asked_until(cache: Cache, holds: Callable[[], bool], within: float = MOVING_SECONDS) -> None:
    """Requests go on all the while, and none waits longer than its time."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        _, seconds = await timed_get(cache, KEYS)
        assert seconds < ANSWER_SECONDS + NOISE_SECONDS
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["killed", "frozen", "moved"])
async def test_a_primary_that_sentinels_move_is_found(group: SentinelGroup, figures: MetricsReader, how: str) -> None:
    """By itself, without a request that waits; what the replica had is still there."""
    async with cache_on(1, figures, redis_sentinels=group.addresses) as cache:
        keys = await fill(cache, figures)
        old = group.primary
        do: dict[str, Callable[[], object]] = {"killed": old.kill, "frozen": old.freeze, "moved": group.fail_over}
        do[how]()
        await asked_until(cache, lambda: group.primary is not old)
        await asked_until(cache, lambda: cache.status() == "ok")
        assert await cache.get_many(KIND, keys) == [b"v0", b"v1", b"v2"]
        await works(cache, figures)
        old.thaw()


async def test_sentinels_that_are_gone_or_hang_are_passed_over(group: SentinelGroup, figures: MetricsReader) -> None:
    """One that works is enough, wherever it stands in the list."""
    group.sentinels[0].kill()
    group.sentinels[1].freeze()
    async with cache_on(1, figures, redis_sentinels=group.addresses) as cache:
        await works(cache, figures)


async def test_a_wrong_name_of_the_primary_is_a_redis_that_is_away(
    group: SentinelGroup, figures: MetricsReader
) -> None:
    settings = {"redis_sentinels": group.addresses, "redis_sentinel_master": "other"}
    async with cache_on(1, figures, **settings) as cache:
        assert cache.status() == "degraded"
        assert await cache.get_many(KIND, KEYS) == [None] * len(KEYS)


async def test_a_cluster_is_read_and_written_whole(shards: Cluster, figures: MetricsReader) -> None:
    """Keys of all shards in one request, hundreds of them; one node is enough to find the others."""
    first = shards.addresses.split(",", 1)[0]
    async with cache_on(1, figures, redis_cluster_nodes=first) as cache:
        await eventually(lambda: cache.status() == "ok")
        keys = await fill(cache, figures, 600)
        async with cache_on(1, MetricsReader(), redis_cluster_nodes=shards.addresses) as other:
            await eventually(lambda: other.status() == "ok")
            assert await other.get_many(KIND, keys) == [b"v%d" % number for number in range(600)]
        assert all(int(shard.command("DBSIZE")[1:]) > 100 for shard in shards.shards)


def _killed(shard: FaultyRedis) -> None:
    shard.kill()


def _frozen(shard: FaultyRedis) -> None:
    shard.freeze()


@pytest.mark.parametrize("lose", [_killed, _frozen])
@pytest.mark.parametrize("place", [0, 2])
async def test_a_lost_shard_of_a_cluster_costs_one_wait_and_is_found_again(
    shards: Cluster, figures: MetricsReader, lose: Callable[[FaultyRedis], None], place: int
) -> None:
    """The Cluster is away as long as a third of the keys is; nothing waits for it, and nothing has to be done."""
    async with cache_on(1, figures, redis_cluster_nodes=shards.addresses) as cache:
        await eventually(lambda: cache.status() == "ok")
        await fill(cache, figures, len(KEYS))
        shard = shards.shards[place]
        lose(shard)
        await eventually(lambda: cache.status() == "degraded")  # While nobody asks.
        await asked_until(cache, lambda: figures(FAILURES, operation="connect") >= 9)
        shard.thaw() if lose is _frozen else shard.start()
        await asyncio.to_thread(shards.wait)
        await asked_until(cache, lambda: cache.status() == "ok")
        await works(cache, figures)
