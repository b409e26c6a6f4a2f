"""The setups of Redis, and the faults that are injected into each."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bench.redis_faults import redis as servers
from bench.redis_faults.proxy import proxy
from bench.redis_faults.redis import FaultyRedis

SLOW_SECONDS = 0.06


@dataclass(frozen=True)
class RedisFault:
    """A fault."""

    name: str
    what: str
    """Description in one line, for the report."""
    inject: Callable[[], object]
    recover: Callable[[], object]
    """Heals the fault, and returns when Redis can work again."""
    momentary: bool = False
    """It is healed at once after it was injected."""


@dataclass(frozen=True)
class RedisSetup:
    """A running Redis and its faults."""

    settings: Mapping[str, str]
    """Settings with which services connect to it."""
    faults: tuple[RedisFault, ...]


@asynccontextmanager
async def one() -> AsyncIterator[RedisSetup]:
    """Start a single server."""
    with FaultyRedis() as redis:
        memory = partial(redis.command, "CONFIG", "SET", "maxmemory")
        rights = partial(redis.command, "ACL", "SETUSER", "default")
        full = "`maxmemory` of one byte without eviction, so that writes fail"
        denied = "every command is answered with an error"

        def freeze_briefly() -> None:
            redis.freeze()
            time.sleep(SLOW_SECONDS)

        faults = (
            RedisFault("stopped", "killed, and later started again, empty", redis.kill, redis.start),
            RedisFault("frozen", "SIGSTOP, and later SIGCONT", redis.freeze, redis.thaw),
            RedisFault("full", full, partial(memory, "1"), partial(memory, "0")),
            RedisFault("restarted", "killed and started again at once, empty", redis.kill, redis.start, momentary=True),
            RedisFault("errors", denied, partial(rights, "-@all", "+acl"), partial(rights, "+@all")),
            RedisFault("paused", "SIGSTOP for 60 ms", freeze_briefly, redis.thaw, momentary=True),
        )
        yield RedisSetup({"REDIS_PORT": str(redis.port)}, faults)


@asynccontextmanager
async def slow() -> AsyncIterator[RedisSetup]:
    """Start a single server behind a proxy that can delay its responses."""
    with FaultyRedis() as redis:
        async with proxy(redis.port) as way:
            delay = partial(setattr, way, "delay")
            late = RedisFault("slow", "every answer is 60 ms late", partial(delay, SLOW_SECONDS), partial(delay, 0.0))
            yield RedisSetup({"REDIS_PORT": str(way.port)}, (late,))


@asynccontextmanager
async def sentinels() -> AsyncIterator[RedisSetup]:
    """Start a primary and a replica with three Sentinels, which heal faults without further help."""
    with servers.sentinel_group() as group:
        lost = "the primary is killed, and Sentinels find that and put the replica in its place"
        faults = (
            RedisFault("moved", "`SENTINEL FAILOVER`", group.fail_over, group.wait, momentary=True),
            RedisFault("primary lost", lost, group.kill_primary, group.wait, momentary=True),
        )
        yield RedisSetup({"REDIS_SENTINELS": group.addresses}, faults)


@asynccontextmanager
async def cluster() -> AsyncIterator[RedisSetup]:
    """Start a Cluster of three shards."""
    with servers.cluster() as made:
        shard = made.shards[-1]

        def heal() -> None:
            shard.start()
            made.wait()

        lost = "one of a Cluster's three is killed, and later started again, empty"
        yield RedisSetup({"REDIS_CLUSTER_NODES": made.addresses}, (RedisFault("shard lost", lost, shard.kill, heal),))


REDIS_SETUPS: dict[str, Callable[[], AbstractAsyncContextManager[RedisSetup]]] = {
    setup.__name__: setup for setup in (one, slow, sentinels, cluster)
}
