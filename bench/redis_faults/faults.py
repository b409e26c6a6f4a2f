"""Redis in each of its forms, and the ways in which it is made ill."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.redis_faults import redis as servers
from bench.redis_faults.proxy import Proxy, proxy_beside
from bench.redis_faults.redis import Redis

SLOW_SECONDS = 0.06


@dataclass(frozen=True)
class Fault:
    """One way to be ill."""

    name: str
    what: str
    """One line for the report."""
    begin: Callable[[], None]
    heal: Callable[[], None]
    """Returns when Redis could work again, by itself or not."""
    brief: bool = False
    """It is healed as soon as it has begun."""
    unseen: bool = False
    """It may be over before anybody has noticed."""


@dataclass(frozen=True)
class Patient:
    """A Redis that runs, and what it will suffer."""

    settings: Mapping[str, str]
    """How a service is told where it is."""
    faults: tuple[Fault, ...]


@contextmanager
def one() -> Iterator[Patient]:
    """A single server."""
    with Redis() as redis:
        restarted = "killed and started again at once, empty"
        full = "`maxmemory` of one byte without eviction, so that writes fail"
        yield Patient(
            {"REDIS_PORT": str(redis.port)},
            (
                Fault("stopped", "killed, and later started again, empty", redis.kill, redis.start),
                Fault("frozen", "SIGSTOP, and later SIGCONT", redis.freeze, redis.thaw),
                Fault("full", full, redis.fill, redis.make_room),
                Fault("restarted", restarted, redis.kill, redis.start, brief=True, unseen=True),
                Fault("errors", "every command is answered with an error", redis.refuse, redis.allow),
                Fault("paused", "SIGSTOP for 60 ms", lambda: _pause(redis), redis.thaw, brief=True, unseen=True),
            ),
        )


@contextmanager
def slow() -> Iterator[Patient]:
    """A single server, at the end of a long way."""
    with Redis() as redis, proxy_beside(redis.port) as way:
        late = Fault("slow", "every answer is 60 ms late", lambda: _delay(way, SLOW_SECONDS), lambda: _delay(way, 0))
        yield Patient({"REDIS_PORT": str(way.port)}, (late,))


@contextmanager
def sentinels() -> Iterator[Patient]:
    """A primary and a replica, watched by three Sentinels, which say when it is well: nobody else does anything."""
    with servers.watched() as group:
        lost = "the primary is killed, and Sentinels find that and put the replica in its place"
        yield Patient(
            {"REDIS_SENTINELS": group.addresses},
            (
                Fault("moved", "`SENTINEL FAILOVER`", group.move, group.wait, brief=True, unseen=True),
                Fault("primary lost", lost, group.lose, group.wait, brief=True),
            ),
        )


@contextmanager
def cluster() -> Iterator[Patient]:
    """Three shards."""
    with servers.cluster() as made:
        shard = made.shards[-1]

        def heal() -> None:
            shard.start()
            made.wait()

        lost = "one of a Cluster's three is killed, and later started again, empty"
        yield Patient({"REDIS_CLUSTER_NODES": made.addresses}, (Fault("shard lost", lost, shard.kill, heal),))


PATIENTS: dict[str, Callable[[], AbstractContextManager[Patient]]] = {
    "one": one,
    "slow": slow,
    "sentinels": sentinels,
    "cluster": cluster,
}


def _pause(redis: Redis) -> None:
    redis.freeze()
    time.sleep(SLOW_SECONDS)


def _delay(way: Proxy, seconds: float) -> None:
    way.delay = seconds
