"""The ways in which one Redis is made ill."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.redis_faults.redis import Redis

PAUSE_SECONDS = 0.06


@dataclass(frozen=True)
class Fault:
    """One way to be ill."""

    name: str
    what: str
    """One line for the report."""
    begin: Callable[[Redis], None]
    heal: Callable[[Redis], None]
    brief: bool = False
    """It is healed as soon as it has begun."""


def _pause(redis: Redis) -> None:
    redis.freeze()
    time.sleep(PAUSE_SECONDS)


FAULTS = (
    Fault("stopped", "killed, and later started again, empty", Redis.kill, Redis.start),
    Fault("frozen", "SIGSTOP, and later SIGCONT", Redis.freeze, Redis.thaw),
    Fault("full", "`maxmemory` of one byte without eviction, so that writes fail", Redis.fill, Redis.make_room),
    Fault("restarted", "killed and started again at once, empty", Redis.kill, Redis.start, brief=True),
    Fault("errors", "every command is answered with an error", Redis.refuse, Redis.allow),
    Fault("paused", "SIGSTOP for 60 ms", _pause, Redis.thaw, brief=True),
)
