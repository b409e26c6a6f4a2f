"""The setups of Redis, and the faults that are injected into each."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.redis_faults import redis as servers
from bench.redis_faults.proxy import Proxy, proxy_beside
from bench.redis_faults.redis import FaultyRedis

SLOW_SECONDS = 0.06


@dataclass(frozen=True)
class RedisFault:
    """A fault."""

    name: str
    what: str
    """Description in one line, for the report."""
    inject: Callable[[], None]
    recover: Callable[[], None]
    """Heals the fault, and returns when Redis can work again."""
    momentary: bool = False
    """It is healed at once after it was injected."""
    may_go_unnoticed: bool = False
    """It may be over before a service notices it."""


@dataclass(frozen=True)
class RedisSetup:
    """A running Redis and its faults."""

    settings: Mapping[str, str]
    """Settings with which services connect to it."""
    faults: tuple[RedisFault, ...]


@contextmanager
def one() -> Iterator[RedisSetup]:
    """Start a single server."""
    with FaultyRedis() as redis:
        restarted = "killed and started again at once, empty"
        full = "`maxmemory` of one byte without eviction, so that writes fail"
        yield RedisSetup(
            {"REDIS_PORT": str(redis.port)},
            (
                RedisFault("stopped", "killed, and later started again, empty", redis.kill, redis.start),
                RedisFault("frozen", "SIGSTOP, and later SIGCONT", redis.freeze, redis.thaw),
                RedisFault("full", full, redis.exhaust_memory, redis.restore_memory),
                RedisFault("restarted", restarted, redis.kill, redis.start, momentary=True, may_go_unnoticed=True),
                RedisFault(
                    "errors", "every command is answered with an error", redis.deny_commands, redis.allow_commands
                ),
                RedisFault(
                    "paused",
                    "SIGSTOP for 60 ms",
                    lambda: _freeze_briefly(redis),
                    redis.thaw,
                    momentary=True,
                    may_go_unnoticed=True,
                ),
            ),
        )


@contextmanager
def slow() -> Iterator[RedisSetup]:
    """Start a single server behind a proxy that can delay its responses."""
    with FaultyRedis() as redis, proxy_beside(redis.port) as way:
        late = RedisFault(
            "slow", "every answer is 60 ms late", lambda: _set_delay(way, SLOW_SECONDS), lambda: _set_delay(way, 0)
        )
        yield RedisSetup({"REDIS_PORT": str(way.port)}, (late,))


@contextmanager
def sentinels() -> Iterator[RedisSetup]:
    """Start a primary and a replica with three Sentinels, which heal faults without further help."""
    with servers.sentinel_group() as group:
        lost = "the primary is killed, and Sentinels find that and put the replica in its place"
        yield RedisSetup(
            {"REDIS_SENTINELS": group.addresses},
            (
                RedisFault(
                    "moved", "`SENTINEL FAILOVER`", group.fail_over, group.wait, momentary=True, may_go_unnoticed=True
                ),
                RedisFault("primary lost", lost, group.kill_primary, group.wait, momentary=True),
            ),
        )


@contextmanager
def cluster() -> Iterator[RedisSetup]:
    """Start a Cluster of three shards."""
    with servers.cluster() as made:
        shard = made.shards[-1]

        def heal() -> None:
            shard.start()
            made.wait()

        lost = "one of a Cluster's three is killed, and later started again, empty"
        yield RedisSetup({"REDIS_CLUSTER_NODES": made.addresses}, (RedisFault("shard lost", lost, shard.kill, heal),))


REDIS_SETUPS: dict[str, Callable[[], AbstractContextManager[RedisSetup]]] = {
    "one": one,
    "slow": slow,
    "sentinels": sentinels,
    "cluster": cluster,
}


def _freeze_briefly(redis: FaultyRedis) -> None:
    redis.freeze()
    time.sleep(SLOW_SECONDS)


def _set_delay(way: Proxy, seconds: float) -> None:
    way.delay = seconds
