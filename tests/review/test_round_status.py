"""How far a round is, on a real Redis that is well and frozen."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from onecard.redis.address import RedisAddress
from review_service.precompute.popularity import open_popularity
from review_service.precompute.refresh_jobs import JobOutcome, refresh_jobs
from review_service.precompute.round_status import RoundStatus
from tests.shared.cache.support import RECOVERY_SECONDS, RedisProcess, running_redis

T = TypeVar("T")

NOW = 1_800_000_000
"""A Unix time."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with running_redis(tmp_path) as server:
        yield server


@asynccontextmanager
async def board_on(redis: RedisProcess) -> AsyncIterator[RoundStatus]:
    async with open_popularity(RedisAddress(port=redis.port), 3600, CollectorRegistry()) as traffic:
        yield RoundStatus(traffic.channel)


async def until(asked: Callable[[], Awaitable[T]]) -> T:
    """The first answer that is not empty, once Redis is back."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not (answer := await asked()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return answer


async def test_an_outcome_that_redis_did_not_hear_of_is_told_again(redis: RedisProcess) -> None:
    """The last of a round while Redis is frozen: the round does not stay under way until its time is over, so that no
    other one begins."""
    planned = refresh_jobs(["r1"], [])
    async with board_on(redis) as board, board_on(redis) as other:
        await board.start(planned, NOW)
        for errand in planned[:-1]:
            await board.record(errand, "computed")
        redis.freeze()
        await board.record(planned[-1], "failed")
        assert await board.read() is None
        redis.thaw()

        async def through() -> bool:
            latest = await board.read()
            return latest is not None and not latest.in_progress(NOW)

        await until(through)
        seen = await other.read()
        assert seen is not None
        assert (seen.count("computed"), seen.count("failed")) == (2, 1)


async def test_an_outcome_that_was_not_heard_is_not_told_of_another_round(redis: RedisProcess) -> None:
    """A new round begins with everything before it."""
    planned = refresh_jobs(["r1"], [])
    async with board_on(redis) as board:
        await board.start(planned, NOW)
        redis.freeze()
        await board.record(planned[0], "failed")
        redis.thaw()
        later, wanted = NOW + 60, dict.fromkeys((errand.name for errand in planned), "waiting")

        async def begun() -> dict[str, JobOutcome]:
            await board.start(planned, later)
            latest = await board.read()
            return {} if latest is None or latest.started_at != later else dict(latest.outcomes)

        assert await until(begun) == wanted
