"""Counts that fade, and what is learned of traffic on a real Redis, well and sick."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bench.redis_faults.redis import cluster
from onecard.redis.address import RedisAddress
from onecard.redis.channel import RedisChannel
from onecard.redis.metrics import RedisMetrics
from onecard.redis.settings import RedisSettings
from review_service.precompute import decay
from review_service.precompute.popularity import MAX_SUBJECT_BYTES, Popularity, PopularityTracker, open_popularity
from tests.shared.cache.support import FAULTS, RedisProcess, eventually, running_redis

DAY = 86_400
NOW = 1_800_000_000
"""A Unix time."""

moments = st.floats(NOW, NOW + 1_000 * DAY)
amounts = st.integers(1, 10_000)
visits = st.tuples(moments, amounts)


def score_of(made: list[tuple[float, int]], half_life: float = DAY) -> float:
    score = None
    for moment, amount in made:
        score = decay.add_visits(score, amount, moment, half_life)
    assert score is not None
    return score


@given(st.lists(visits, min_size=1, max_size=30), st.floats(0, 100 * DAY))
def test_a_score_is_the_sum_of_its_faded_visits(made: list[tuple[float, int]], later: float) -> None:
    """Each weighs half as much after each half-life; the order in which they come does not count."""
    end = max(moment for moment, _ in made) + later
    expected = math.fsum(amount * 2 ** ((moment - end) / DAY) for moment, amount in made)
    assert decay.decayed_visits(score_of(made), end, DAY) == pytest.approx(expected, rel=1e-6)
    assert score_of(made[::-1]) == pytest.approx(score_of(made), abs=1e-9)


@given(st.lists(visits, min_size=1, max_size=10), st.lists(visits, min_size=1, max_size=10), st.floats(0, 500 * DAY))
def test_time_changes_no_order(one: list[tuple[float, int]], other: list[tuple[float, int]], later: float) -> None:
    """Whoever is ahead stays ahead until somebody is visited again: nothing kept needs to be swept."""
    end = max(moment for moment, _ in one + other)
    ahead = score_of(one) >= score_of(other)
    weights = [decay.decayed_visits(score_of(made), end + later, DAY) for made in (one, other)]
    assert weights[0] == pytest.approx(weights[1]) or (weights[0] >= weights[1]) is ahead


@given(st.integers(1, 10**6), st.floats(60, 30 * DAY))
def test_a_score_does_not_overflow(amount: int, half_life: float) -> None:
    """Half a century on, with the shortest half-life that settings allow, it is an ordinary number."""
    late = NOW + 50 * 365 * DAY
    score = decay.add_visits(decay.add_visits(None, amount, NOW, half_life), amount, late, half_life)
    assert decay.decayed_visits(score, late, half_life) == pytest.approx(amount, rel=0.01)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with running_redis(tmp_path) as server:
        yield server


@asynccontextmanager
async def traffic_on(redis: RedisProcess) -> AsyncIterator[PopularityTracker]:
    async with open_popularity(RedisAddress(port=redis.port), DAY, CollectorRegistry()) as traffic:
        yield traffic


@asynccontextmanager
async def bounded(redis: RedisProcess, most: int) -> AsyncIterator[Popularity]:
    """Popularity of `most` subjects, told by hand."""
    metrics = RedisMetrics("onecard_popularity", CollectorRegistry())
    channel = RedisChannel("popularity", RedisAddress(port=redis.port), metrics, probe=("PING",))
    await channel.start()
    try:
        yield Popularity("some", DAY, channel, most)
    finally:
        await channel.close()


async def subjects(popularity: Popularity, count: int = 100) -> list[str]:
    return [popular.subject for popular in await popularity.top(count)]


async def test_replicas_learn_together(redis: RedisProcess) -> None:
    """Visits at two replicas add up, and both see one order."""
    async with traffic_on(redis) as one, traffic_on(redis) as other:
        for _ in range(3):
            one.restaurants.record("r1")
        for _ in range(2):
            one.restaurants.record("r2")
            other.restaurants.record("r2")
        one.queries.record("국물이 진한 집")
        for traffic in (one, other):
            await traffic.restaurants.flush()
            await traffic.queries.flush()
        found = [await traffic.restaurants.top(10) for traffic in (one, other)]
        assert [[popular.subject for popular in list_] for list_ in found] == [["r2", "r1"]] * 2
        assert [popular.weighted_visits for popular in found[0]] == [
            pytest.approx(4, rel=0.01),
            pytest.approx(3, rel=0.01),
        ]
        assert await subjects(other.queries) == ["국물이 진한 집"]
        assert await subjects(one.restaurants, 1) == ["r2"]


async def test_visits_are_told_by_themselves(redis: RedisProcess) -> None:
    """While the service runs, and what was noted last when it ends."""
    async with traffic_on(redis) as traffic:
        traffic.restaurants.record("early")
        await eventually(lambda: b"early" in redis.command("ZRANGE", f"onecard:popular:restaurants:{DAY}", "0", "-1"))
        traffic.restaurants.record("late")
    assert b"late" in redis.command("ZRANGE", f"onecard:popular:restaurants:{DAY}", "0", "-1")


async def test_the_script_does_the_same_sums(redis: RedisProcess) -> None:
    """Redis's arithmetic and the pure core's agree."""
    async with bounded(redis, 10) as popularity:
        for amount in (5, 1, 700):
            for _ in range(amount):
                popularity.record("one")
            await popularity.flush()
        (one,) = await popularity.top(10)
        assert one.weighted_visits == pytest.approx(706, rel=1e-3)


async def test_frequent_subjects_survive_a_flood_of_rare_ones(redis: RedisProcess) -> None:
    """The set never outgrows its bound, and who has more than its share of all visits stays in it."""
    async with bounded(redis, 10) as popularity:
        for number in range(60):
            for _ in range(3):
                popularity.record("often")
            popularity.record(f"rare {number}")
            popularity.record(f"rarer {number}")
            await popularity.flush()
        assert (await subjects(popularity))[0] == "often"
        assert redis.command("ZCARD", f"onecard:popular:some:{DAY}") == b":10\r\n"


async def test_what_is_too_long_or_too_much_is_left_out(redis: RedisProcess) -> None:
    """A round is bounded before it is told."""
    async with bounded(redis, 2) as popularity:
        popularity.record("가" * MAX_SUBJECT_BYTES)
        for name in ("a", "b", "c"):
            popularity.record(name)
        await popularity.flush()
        assert sorted(await subjects(popularity)) == ["a", "b"]


@pytest.mark.parametrize("ailment", FAULTS)
async def test_a_sick_redis_fails_nothing(redis: RedisProcess, ailment: str) -> None:
    """Nothing is raised, nothing is learned; once Redis is well, learning goes on."""
    async with traffic_on(redis) as traffic:
        with FAULTS[ailment](redis):
            async with asyncio.timeout(5):
                traffic.restaurants.record("during")
                await traffic.restaurants.flush()
                await traffic.restaurants.flush()

        for _ in range(200):
            traffic.restaurants.record("after")
            await traffic.restaurants.flush()
            if "after" in await subjects(traffic.restaurants):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("Redis is well, and nothing is learned")


async def test_what_was_visited_while_redis_was_away_is_learned(redis: RedisProcess) -> None:
    """Nothing is sent to a Redis that is known to be away; the visits are counted until it is back."""
    async with traffic_on(redis) as traffic:
        with FAULTS["killed"](redis):
            await eventually(lambda: not traffic.channel.up)
            for _ in range(2):
                traffic.restaurants.record("r1")
                await traffic.restaurants.flush()
        await eventually(lambda: traffic.channel.up)
        traffic.restaurants.record("r1")
        await traffic.restaurants.flush()
        (one,) = await traffic.restaurants.top(10)
        assert (one.subject, one.weighted_visits) == ("r1", pytest.approx(3, rel=0.01))


async def test_popularity_is_learned_in_a_cluster() -> None:
    """Each set lies on one server, and is ranked by that server's clock."""
    with cluster() as shards:
        address = RedisSettings(redis_cluster_nodes=shards.addresses).redis_address()
        async with open_popularity(address, DAY, CollectorRegistry()) as traffic:
            await eventually(lambda: traffic.channel.up)
            traffic.restaurants.record("r1")
            traffic.queries.record("q1")
            await traffic.restaurants.flush()
            await traffic.queries.flush()
            assert await subjects(traffic.restaurants) == ["r1"]
            assert await subjects(traffic.queries) == ["q1"]
