"""Limits on a real Redis, well and sick, and in a process alone."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from bench.redis_faults.redis import cluster
from gateway.limits.metrics import RateLimitMetrics
from gateway.limits.rate_limit import Decision, RateLimit, Settlement, Usage, decide
from gateway.limits.rate_limiter import Admission, RateLimiter, open_rate_limiter
from gateway.limits.redis_counters import PROBE, RedisCounters
from gateway.limits.shared_counters import SharedCounters
from gateway.limits.sliding_window import CELL_MS, MINUTE_MS, Cell, Window
from onecard.errors import RateLimited
from onecard.redis.address import RedisAddress
from onecard.redis.channel import RedisChannel
from onecard.redis.settings import RedisSettings
from tests.gateway.support import key
from tests.shared.cache.support import MetricsReader, RedisProcess, eventually, running_redis

ANSWER_SECONDS = 0.05
"""The default of `REDIS_ANSWER_MS`."""
NOISE_SECONDS = 0.45
"""What a busy test machine may add to the promised wait."""

REQUESTS = "onecard_limits_requests_total"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A running Redis."""
    with running_redis(tmp_path) as server:
        yield server


@asynccontextmanager
async def limits_on(redis: RedisProcess, figures: MetricsReader, **quota: int) -> AsyncIterator[RateLimiter]:
    """One gateway's limits on this Redis, which it has found."""
    async with open_rate_limiter(RateLimit(**quota), RedisAddress(port=redis.port), figures.registry) as limits:
        await eventually(lambda: figures("onecard_limits_redis_up", operation="limits") == 1)
        yield limits


async def take(limits: RateLimiter, tokens: int = 0, name: str = "a", **of_key: int) -> Admission:
    """One request that may cost so many tokens."""
    caller = key(name, **of_key)
    return await limits.admit(caller, limits.rate_limit(caller), tokens)


async def admitted(limits: RateLimiter, requests: int, name: str = "a", tokens: int = 0) -> int:
    """How many of so many requests at once come in."""
    outcomes = await asyncio.gather(*(take(limits, tokens, name) for _ in range(requests)), return_exceptions=True)
    assert all(not isinstance(one, Exception) or isinstance(one, RateLimited) for one in outcomes), outcomes
    return sum(not isinstance(one, Exception) for one in outcomes)


def store(redis: RedisProcess, name: str, use: Usage) -> None:
    """Write what a key has used, as the script keeps it."""
    kept = ", ".join("{" + ", ".join(f"{last}, {amount}" for last, amount in window.cells) + "}" for window in use)
    script = f"return redis.call('SET', KEYS[1], cmsgpack.pack({{{kept}}}))"
    assert redis.command("EVAL", script, "1", f"onecard:limits:{name}") == b"+OK\r\n"


@asynccontextmanager
async def use_on(redis: RedisProcess, figures: MetricsReader) -> AsyncIterator[RedisCounters]:
    """What decides in this Redis, found."""
    channel = RedisChannel("limits", RedisAddress(port=redis.port), RateLimitMetrics(figures.registry), probe=PROBE)
    await channel.start()
    try:
        yield RedisCounters(channel)
    finally:
        await channel.close()


async def test_redis_decides_as_the_pure_core_does(redis: RedisProcess) -> None:
    """The same sums, from any state, a clock that was put back included."""
    draw = random.Random(7)

    def window(now: int) -> Window:
        moments = sorted(now + draw.randrange(-70_000, 4_000) for _ in range(draw.randrange(6)))
        cells = {moment // CELL_MS: Cell(moment, draw.randrange(12)) for moment in moments}
        return Window(tuple(cells.values()))

    async with use_on(redis, MetricsReader()) as shared:
        for number in range(300):
            now = int(time.time() * 1000)
            before = Usage(window(now), window(now))
            store(redis, f"key{number}", before)
            quota = RateLimit(draw.choice([None, 5, 10, 40]), draw.choice([None, 5, 10, 40]))
            costs = [draw.randrange(12) for _ in range(draw.randrange(1, 5))]
            settlements = [Settlement(now - draw.randrange(70_000), draw.randrange(-9, 9)) for _ in range(2)]
            decisions = await shared.admit(f"key{number}", quota, costs, settlements)
            assert decisions is not None
            now = decisions[0].now_ms
            use = before.at(now)
            for settlement in settlements:
                use = use.settled(now, settlement)
            for cost, decision in zip(costs, decisions, strict=True):
                expected, use = decide(use, quota, cost, now)
                assert decision == expected


async def test_several_gateways_share_one_limit(redis: RedisProcess) -> None:
    """For requests and for tokens; another key has its own; nothing stays in Redis for ever."""
    async with (
        limits_on(redis, MetricsReader(), requests=20) as one,
        limits_on(redis, MetricsReader(), requests=20) as two,
    ):
        crowds = await asyncio.gather(admitted(one, 100), admitted(two, 100))
        assert sum(crowds) == 20
        assert await admitted(two, 1, "b") == 1
    async with (
        limits_on(redis, MetricsReader(), tokens=100) as one,
        limits_on(redis, MetricsReader(), tokens=100) as two,
    ):
        one.settle(key("t"), await take(one, 50, "t"), 60)
        await take(one, 0, "t")  # Takes the settlement along.
        assert (await take(two, 10, "t")).headers["x-ratelimit-remaining-tokens"] == "30"
        with pytest.raises(RateLimited) as refused:
            await take(one, 31, "t")
        assert refused.value.headers is not None
        assert 55 < int(refused.value.headers["retry-after"]) <= 60
    for name in ("a", "t"):
        assert 0 < int(redis.command("PTTL", f"onecard:limits:{name}").strip(b":\r\n")) <= MINUTE_MS


async def test_the_health_check_of_the_limits_counts_for_no_key(redis: RedisProcess) -> None:
    """Whatever the key is called: the check writes under a name that no key can have."""
    async with use_on(redis, MetricsReader()) as shared:
        assert await shared.admit("a", RateLimit(requests=5), [0]) is not None  # Found, by the check.
        checked = [*PROBE]
        redis.command(*(word if isinstance(word, bytes) else str(word) for word in checked))
        written = str(checked[3])
        assert int(redis.command("EXISTS", written).strip(b":\r\n")) == 1
        assert written.startswith("onecard:")  # The keys that a user in Redis is given.
        decisions = await shared.admit("probe", RateLimit(requests=5, tokens=5), [5])
    assert decisions is not None
    assert (decisions[0].outcome, decisions[0].requests_used) == ("admitted", 1)
    name = written.removeprefix("onecard:limits:")
    with pytest.raises(ValidationError):
        key(name)


async def test_tokens_are_refused_before_they_are_spent(redis: RedisProcess) -> None:
    """Forty requests of up to 50 tokens at once, through two gateways: 20 of them are the limit of 1,000; and what an
    answer did not cost is there for the next."""
    async with (
        limits_on(redis, MetricsReader(), tokens=1000) as one,
        limits_on(redis, MetricsReader(), tokens=1000) as two,
    ):
        crowds = await asyncio.gather(admitted(one, 20, tokens=50), admitted(two, 20, tokens=50))
        assert sum(crowds) == 20
        first = await take(one, 900, "b")
        one.settle(key("b"), first, 100)
        assert (await take(one, 600, "b")).headers["x-ratelimit-remaining-tokens"] == "300"


@pytest.mark.parametrize("seconds", [1, 61, 121])
async def test_what_an_answer_cost_beyond_its_reserve_counts_from_when_it_is_known(seconds: int) -> None:
    """Also that of an answer that took longer than a minute, or two."""
    now = 1_000_000.0
    limits = RateLimiter(RateLimit(tokens=100), None, RateLimitMetrics(MetricsReader().registry), lambda: now)
    admission = await take(limits, 10)
    now += seconds
    limits.settle(key("a"), admission, 120)
    with pytest.raises(RateLimited):
        await take(limits)


@pytest.mark.parametrize("jump_ms", [-3_600_000, -30_000, 30_000, 3_600_000])
async def test_a_jump_of_redis_clock_costs_a_minute_at_most(redis: RedisProcess, jump_ms: int) -> None:
    """Put back, what was used counts for a minute from then on; put forward, for less; Redis goes on deciding."""
    async with use_on(redis, MetricsReader()) as shared:
        then = int(time.time() * 1000) - jump_ms  # What the clock showed before it was put to what it shows now.
        store(redis, "a", Usage(Window((Cell(then, 4),)), Window()))
        decisions = await shared.admit("a", RateLimit(requests=5), [0, 0])
    assert decisions is not None
    first, second = decisions
    if jump_ms >= MINUTE_MS:
        assert (first.outcome, first.requests_used) == ("admitted", 1)
    else:
        assert (first.outcome, first.requests_used, second.outcome) == ("admitted", 5, "out_of_requests")
        assert 0 < second.wait_ms <= MINUTE_MS


@pytest.mark.parametrize("planted", [("SET", "garbage"), ("SET", ""), ("HSET", "start", "1"), ("RPUSH", "1")])
async def test_a_value_that_is_none_is_begun_anew(redis: RedisProcess, planted: tuple[str, ...]) -> None:
    """What somebody else wrote under a key's name, whatever its type."""
    word, *rest = planted
    redis.command(word, "onecard:limits:a", *rest)
    figures = MetricsReader()
    async with limits_on(redis, figures, requests=5) as limits:
        assert await admitted(limits, 10) == 5
        assert figures(REQUESTS, kept_in="redis") == 10


@pytest.mark.parametrize("denied", ["-eval", "-set", "-get", "-time"])
async def test_a_redis_that_may_not_decide_leaves_it_to_each_gateway(redis: RedisProcess, denied: str) -> None:
    """By an ACL without EVAL, or with a script that fails inside: the limit holds, the log and the figures say why, and
    when it may, Redis decides again."""
    figures = MetricsReader()
    async with limits_on(redis, figures, requests=5) as limits:
        assert await admitted(limits, 3) == 3
        with structlog.testing.capture_logs() as logs:
            redis.command("ACL", "SETUSER", "default", denied)
            assert await admitted(limits, 10) == 2
            assert figures("onecard_limits_redis_up") == 0
        assert any(line["event"] == "redis is away" and line["log_level"] == "warning" for line in logs)
        assert figures(REQUESTS, kept_in="memory") == 10
        redis.command("ACL", "SETUSER", "default", "+@all")
        await eventually(lambda: figures("onecard_limits_redis_up") == 1)
        assert await admitted(limits, 1, "b") == 1
        assert figures(REQUESTS, kept_in="redis", caller="b") == 1


async def test_a_fault_of_the_limits_is_logged_and_answered() -> None:
    """It refuses nobody, nobody waits for ever, and the next one is decided as if nothing had been."""

    class Broken(RedisCounters):
        def __init__(self) -> None:
            """No channel."""

        async def admit(self, *_: object, **__: object) -> None:
            raise ValueError("a fault of this code")

    limits = RateLimiter(RateLimit(requests=1), SharedCounters(Broken()), RateLimitMetrics(MetricsReader().registry))
    with structlog.testing.capture_logs() as logs:
        assert await asyncio.wait_for(admitted(limits, 3), 5) == 1
    assert [line["event"] for line in logs] == ["limits are not shared"]
    assert "a fault of this code" in str(logs[0]["exc_info"]) or logs[0]["exc_info"]


class Recorded(RedisCounters):
    """A Redis that admits everybody and records its round trips: how many requests, and what was settled."""

    def __init__(self) -> None:
        self.trips: list[tuple[int, list[Settlement]]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def admit(
        self, name: str, quota: RateLimit, costs: Sequence[int], settlements: Sequence[Settlement] = ()
    ) -> list[Decision]:
        self.trips.append((len(costs), list(settlements)))
        await self.open.wait()
        return [Decision(0, 0, 0, 0, 0, 0, 0) for _ in costs]


COST = Settlement(1, -5)


async def test_a_settlement_rides_with_the_keys_next_request() -> None:
    """It has no round trip of its own, which that request would have to wait for."""
    redis = Recorded()
    shared = SharedCounters(redis)
    shared.settle("a", COST)
    await asyncio.sleep(0)
    assert redis.trips == []
    assert await shared.admit("a", RateLimit(tokens=10), 3) is not None
    assert redis.trips == [(1, [COST])]
    await shared.close()
    assert redis.trips == [(1, [COST])]


async def test_the_settlements_of_an_idle_key_are_sent_by_themselves() -> None:
    """All of them at once, also those that came while a request was being decided."""
    redis = Recorded()
    shared = SharedCounters(redis)
    for _ in range(3):
        shared.settle("a", COST)
    await eventually(lambda: redis.trips == [(0, [COST] * 3)])
    redis.open.clear()
    deciding = asyncio.create_task(shared.admit("a", RateLimit(tokens=10), 3))
    await eventually(lambda: len(redis.trips) == 2)
    shared.settle("a", COST)
    redis.open.set()
    assert await deciding is not None
    await eventually(lambda: redis.trips[2:] == [(0, [COST])])


async def test_closing_sends_the_settlements_that_have_waited() -> None:
    """Those of every key, also while a round trip of it is under way."""
    redis = Recorded()
    shared = SharedCounters(redis)
    redis.open.clear()
    deciding = asyncio.create_task(shared.admit("b", RateLimit(tokens=10), 3))
    await eventually(lambda: len(redis.trips) == 1)
    shared.settle("a", COST)
    shared.settle("b", COST)
    closing = asyncio.create_task(shared.close())
    await asyncio.sleep(0)
    redis.open.set()
    await asyncio.gather(deciding, closing)
    assert redis.trips == [(1, []), (0, [COST]), (0, [COST])]


async def test_another_gateway_sees_a_settlement_without_any_request_here(redis: RedisProcess) -> None:
    """A moment later."""
    async with (
        limits_on(redis, MetricsReader(), tokens=100) as one,
        limits_on(redis, MetricsReader(), tokens=100) as two,
    ):
        one.settle(key("a"), await take(one, 50), 10)

        for _ in range(1500):
            remaining = (await take(two)).headers["x-ratelimit-remaining-tokens"]
            if remaining == "90":
                break
            await asyncio.sleep(0.02)
        assert remaining == "90"


async def test_a_redis_that_freezes_costs_one_wait_and_keeps_the_limit(redis: RedisProcess) -> None:
    """The gateway goes on from what Redis said last, at once, and uses Redis again when it is well."""
    figures = MetricsReader()
    async with limits_on(redis, figures, requests=50, tokens=1000) as limits:
        assert await admitted(limits, 30) == 30
        redis.freeze()
        started = time.perf_counter()
        assert await admitted(limits, 10) == 10
        limits.settle(key("a"), Admission({}, 0), 10)
        assert time.perf_counter() - started < 2 * ANSWER_SECONDS + NOISE_SECONDS
        started = time.perf_counter()
        assert await admitted(limits, 100) == 10
        assert time.perf_counter() - started < ANSWER_SECONDS + NOISE_SECONDS, "nobody waits any more"
        assert figures(REQUESTS, kept_in="memory") == 110
        assert figures("onecard_limits_redis_up") == 0
        redis.thaw()
        await eventually(lambda: figures("onecard_limits_redis_up") == 1)
        assert await admitted(limits, 1, "b") == 1
        assert figures(REQUESTS, kept_in="redis", caller="b") == 1


async def test_a_redis_that_is_killed_and_comes_back_empty(redis: RedisProcess) -> None:
    """Each gateway holds the limit by itself meanwhile; afterwards they share one again."""
    figures, others = MetricsReader(), MetricsReader()
    async with limits_on(redis, figures, requests=20) as one, limits_on(redis, others, requests=20) as two:
        redis.kill()
        assert [await admitted(one, 50), await admitted(two, 50)] == [20, 20]
        redis.start()
        for each in (figures, others):
            await eventually(lambda each=each: each("onecard_limits_redis_up") == 1)  # type: ignore[misc]
        assert 20 <= sum(await asyncio.gather(admitted(one, 50), admitted(two, 50))) <= 21


async def test_without_limits_nobody_is_asked(redis: RedisProcess) -> None:
    """A key without limits costs no round trip, and has no headers."""
    figures = MetricsReader()
    async with limits_on(redis, figures) as limits:
        before = figures("onecard_limits_redis_seconds_count")
        assert await take(limits) == Admission({}, None)
        assert figures("onecard_limits_redis_seconds_count") - before <= 1  # A look at Redis may fall into it.
        assert figures(REQUESTS) == 0


async def test_a_keys_own_limit_counts_before_the_default() -> None:
    """Each of the two by itself; in this process alone where there is no Redis."""
    async with open_rate_limiter(RateLimit(requests=3, tokens=10), None, MetricsReader().registry) as limits:
        admission = await take(limits, 0, "own", requests_per_minute=5)
        assert admission.headers["x-ratelimit-limit-requests"] == "5"
        assert admission.headers["x-ratelimit-limit-tokens"] == "10"
        assert await admitted(limits, 10, "plain") == 3


async def test_limits_are_shared_in_a_cluster() -> None:
    """A key's two numbers lie on one server, whichever; a lost server is a Redis that is away, and comes back."""
    with cluster() as shards:
        address = RedisSettings(redis_cluster_nodes=shards.addresses).redis_address()
        figures = MetricsReader()
        async with (
            open_rate_limiter(RateLimit(requests=20), address, figures.registry) as one,
            open_rate_limiter(RateLimit(requests=20), address, CollectorRegistry()) as two,
        ):
            for name in ("a", "b", "c", "d", "e"):
                assert await admitted(one, 15, name) == 15
                assert await admitted(two, 15, name) == 5
            shards.shards[1].kill()
            await eventually(lambda: figures("onecard_limits_redis_up") == 0)
            assert await admitted(one, 30, "f") == 20
            shards.shards[1].start()
            await asyncio.to_thread(shards.wait)
            await eventually(lambda: figures("onecard_limits_redis_up") == 1)
