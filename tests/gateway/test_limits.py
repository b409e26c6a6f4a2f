"""The sliding minute, the counting of tokens, and both on a real Redis, well and sick."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bench.redis_faults.redis import cluster
from gateway.limits.admission import FAR_REQUESTS, FAR_TOKENS, Quota, Use, decide, duration, headers
from gateway.limits.limits import Limits, open_limits
from gateway.limits.metrics import LimitsMetrics
from gateway.limits.redis import PROBE, RedisUse
from gateway.limits.window import MINUTE_MS, Window
from gateway.meter import MOST_PARSED_BYTES, MOST_READ_BYTES, Meter, Usage
from onecard.cache.address import Address
from onecard.cache.channel import Channel
from onecard.cache.settings import RedisSettings
from onecard.errors import RateLimited
from tests.gateway.support import key
from tests.shared.cache.support import Figures, Redis, eventually, running_redis

ANSWER_SECONDS = 0.05
"""The default of `REDIS_ANSWER_MS`."""
NOISE_SECONDS = 0.45
"""What a busy test machine may add to the promised wait."""

REQUESTS = "onecard_limits_requests_total"

moments = st.integers(0, 10 * MINUTE_MS)
amounts = st.integers(0, 10_000)


@st.composite
def uses(draw: st.DrawFn) -> tuple[Window, int]:
    """A window, and a moment of its running minute."""
    window = Window(draw(moments), draw(amounts), draw(amounts))
    return window, window.start_ms + draw(st.integers(0, MINUTE_MS - 1))


@given(uses(), st.integers(0, 3 * MINUTE_MS), st.integers(0, 3 * MINUTE_MS))
def test_looking_often_changes_nothing(use: tuple[Window, int], first: int, second: int) -> None:
    """What is used at a moment does not depend on who looked before; it never grows by itself."""
    window, now = use
    once, twice = window.at(now + first + second), window.at(now + first).at(now + first + second)
    assert once.used(now + first + second) == twice.used(now + first + second)
    assert once.used(now + first + second) <= window.used(now)
    assert window.at(now + 2 * MINUTE_MS).used(now + 2 * MINUTE_MS) == 0


@given(uses(), amounts)
def test_the_wait_that_is_told_is_as_long_as_needed(use: tuple[Window, int], most: int) -> None:
    """After it there is room; a moment before there is none."""
    window, now = use
    wait = window.wait_ms(now, most)
    after = now + int(wait) + 1
    assert window.at(after).used(after) <= most
    before = now + int(wait) - 1
    assert wait < 2 or window.at(before).used(before) > most


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=200), st.integers(1, 20))
def test_no_minute_has_more_requests_than_its_limit(gaps: list[int], most: int) -> None:
    """From the first use on; and by the sliding count never more either."""
    use, now = Use(0, Window(), Window()), 10 * MINUTE_MS
    for gap in gaps:
        now += gap
        use = decide(use.at(now), Quota(requests=most)).use
        assert use.requests.current <= use.requests.used(now) <= most


def test_tokens_may_be_overdrawn_once_and_are_then_waited_for() -> None:
    """What a request costs is known afterwards; the debt counts in full."""
    quota = Quota(tokens=100)
    use = Use(0, Window(), Window(0, 99, 0))
    assert decide(use, quota).outcome == "admitted"
    use = Use(0, Window(), use.tokens.plus(500))
    assert decide(use, quota).outcome == "out_of_tokens"
    assert headers(use, quota)["x-ratelimit-remaining-tokens"] == "0"
    assert decide(use.at(MINUTE_MS + 30_000), quota).outcome == "out_of_tokens"
    assert decide(use.at(MINUTE_MS + 50_100), quota).outcome == "admitted"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (17, "17ms"), (999.6, "1s"), (1000, "1s"), (8640, "8.64s"), (60_000, "1m0s"), (90_500, "1m30.5s")],
)
def test_durations_are_written_as_openai_writes_them(milliseconds: float, text: str) -> None:
    """The SDKs' users parse them."""
    assert duration(milliseconds) == text


def test_headers_are_for_what_is_limited() -> None:
    """All of it, before and after use; nothing for a key without limits."""
    use = Use(0, Window(0, 3, 0), Window(0, 40, 0))
    assert headers(use, Quota()) == {}
    assert headers(use, Quota(requests=10)) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "2m0s",
    }
    assert headers(use, Quota(tokens=100))["x-ratelimit-remaining-tokens"] == "60"


def metered(chunks: list[bytes], content_type: bytes = b"application/json", status: int = 200, asked: int = 40) -> int:
    meter = Meter(asked)
    meter.begins(status, content_type)
    for chunk in chunks:
        meter.answered(chunk)
    return meter.tokens()


STREAM = b"text/event-stream; charset=utf-8"
EVENTS = b'data: {"a": 1, "usage": null}\n\ndata: {"a": "\\"usage\\""}\n\n'
LAST = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}\n\n'
CALLS = b'[{"function": {"arguments": "{}"}}]'
MANY = b'data: {"choices": [{"delta": {"content": "0123456789", "tool_calls": ' + CALLS + b"}}]}\n\n"
RESPONSES = b'event: response.completed\ndata: {"response": {"usage": {"total_tokens": 9}}}\n\n'


@pytest.mark.parametrize(
    ("answer", "content_type", "tokens"),
    [
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 7}}', b"application/json", 7),
        (b'{"text": "\\"usage\\": {}"}', b"application/json", 10 + 6),
        (EVENTS + LAST + b"data: [DONE]\n\n", STREAM, 7),
        (EVENTS + RESPONSES, STREAM, 9),
        (EVENTS + b"data: [DONE]\n\n", STREAM, 10 + 2),
        (EVENTS + MANY + b'data: {"choices": [{"text": "012345678"}]}\n\n', STREAM, 10 + 2 + 3 + 2),
        (b'data: {"choices": [{"delta": {"content": ""}}]}\n\ndata: {"choices": 1}\n\n', STREAM, 10 + 2),
        (b'data: {"choices": [{"delta": {"content": "01234567", "tool_calls": [{"id": "a"}]}}]}\n\n', STREAM, 10 + 2),
        (b'[{"embedding": "' + b"a" * MOST_PARSED_BYTES + b'"}]', b"application/json", 10),
        (b'{"data": "' + b"a" * MOST_PARSED_BYTES + b'", "usage": {"total_tokens": 7}}', b"application/json", 7),
        (b"data: " + b"a" * MOST_PARSED_BYTES + b"\n\n" + LAST, STREAM, 7),
    ],
    ids=[
        "usage",
        "no usage",
        "stream with usage",
        "responses",
        "stream without",
        "many tokens in an event",
        "odd events",
        "a tool call that begins",
        "huge",
        "huge with usage",
        "huge event",
    ],
)
@given(data=st.data())
def test_tokens_are_those_of_the_usage_or_an_estimate(
    data: st.DataObject, answer: bytes, content_type: bytes, tokens: int
) -> None:
    """However the answer is cut into chunks."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=8)))
    chunks = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert metered(chunks, content_type) == tokens


@pytest.mark.parametrize("content_type", [STREAM, b"application/json"])
def test_where_nothing_is_limited_an_answer_is_still_asked_what_it_cost(content_type: bytes) -> None:
    """For the metrics; its events are not read for that, and only its end is kept."""
    meter = Meter(40, estimates=False)
    meter.begins(200, content_type)
    for chunk in (*[MANY] * 10_000, EVENTS, LAST, b"data: [DONE]\n\n"):
        meter.answered(chunk)
    assert meter.usage() == Usage(3, 4, 7)
    assert len(meter._held) <= 2 * MOST_READ_BYTES


@given(st.text() | st.sampled_from(['"usage": {"total_tokens": 9}', '"usage', '"usage"']), st.booleans())
def test_no_text_passes_for_usage(text: str, spaced: bool) -> None:
    """Whatever an answer says in words, before its `usage` and after it."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    answer = {"content": text, "response": {"usage": usage}, "tokens": [text]}
    meter = Meter(0)
    meter.begins(200, b"application/json")
    meter.answered(json.dumps(answer, ensure_ascii=False, separators=None if spaced else (",", ":")).encode())
    assert meter.usage() == Usage(3, 4, 7)


def test_errors_cost_nothing() -> None:
    """Nor does a request that was never answered."""
    body = json.dumps({"usage": {"total_tokens": 7}}).encode()
    assert metered([body], status=503) == 0
    assert metered([body], status=0) == 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running Redis."""
    with running_redis(tmp_path) as server:
        yield server


@asynccontextmanager
async def limits_on(redis: Redis, figures: Figures, **quota: int) -> AsyncIterator[Limits]:
    """One gateway's limits on this Redis, which it has found."""
    async with open_limits(Quota(**quota), Address(port=redis.port), figures.registry) as limits:
        await eventually(lambda: figures("onecard_limits_redis_up", operation="limits") == 1)
        yield limits


async def admitted(limits: Limits, requests: int, name: str = "a") -> int:
    """How many of so many requests at once come in."""
    outcomes = await asyncio.gather(*(limits.admit(key(name)) for _ in range(requests)), return_exceptions=True)
    assert all(not isinstance(one, Exception) or isinstance(one, RateLimited) for one in outcomes), outcomes
    return sum(not isinstance(one, Exception) for one in outcomes)


async def test_redis_decides_as_the_pure_core_does(redis: Redis) -> None:
    """The same sums, from any state."""
    draw = random.Random(7)
    figures = Figures()
    channel = Channel("limits", Address(port=redis.port), LimitsMetrics(figures.registry), probe=PROBE)
    await channel.start()
    use = RedisUse(channel)
    for number in range(300):
        name, now = f"key{number}", int(time.time() * 1000)
        before = [Window(now - draw.randrange(3 * MINUTE_MS), draw.randrange(12), draw.randrange(12)) for _ in range(2)]
        for what, window in zip(("requests", "tokens"), before, strict=True):
            fields = {"start": window.start_ms, "current": window.current, "previous": window.previous}
            words = [word for field, value in fields.items() for word in (field, str(value))]
            redis.command("HSET", f"onecard:limits:{{{name}}}:{what}", *words)
        quota = Quota(draw.choice([None, 5, 10]), draw.choice([None, 5, 10]))
        requests, tokens, let_in = draw.randrange(1, 5), draw.choice([0, 3]), draw.choice([0, 2])
        taken = await use.take(name, quota, requests, tokens=tokens, let_in=let_in)
        assert taken is not None
        now = Use(taken.use.now_ms, *before).at(taken.use.now_ms)
        now = Use(now.now_ms, now.requests.plus(let_in), now.tokens.plus(tokens))
        for place in range(requests):
            decision = decide(now, quota)
            assert taken.decision(place) == decision
            now = decision.use
    await channel.close()


async def test_several_gateways_share_one_limit(redis: Redis) -> None:
    """For requests and for tokens; another key has its own; nothing stays in Redis for ever."""
    async with limits_on(redis, Figures(), requests=20) as one, limits_on(redis, Figures(), requests=20) as two:
        crowds = await asyncio.gather(admitted(one, 100), admitted(two, 100))
        assert 20 <= sum(crowds) <= 21
        assert await admitted(two, 1, "b") == 1
    async with limits_on(redis, Figures(), tokens=100) as one, limits_on(redis, Figures(), tokens=100) as two:
        one.spent(key("t"), 60)
        assert (await two.admit(key("t"))).headers["x-ratelimit-remaining-tokens"] == "40"
        two.spent(key("t"), 60)
        with pytest.raises(RateLimited) as refused:
            await one.admit(key("t"))
        assert refused.value.headers is not None
        assert 60 < int(refused.value.headers["retry-after"]) <= 80
    for name in ("{a}:requests", "{t}:tokens"):
        assert 0 < int(redis.command("PTTL", f"onecard:limits:{name}").strip(b":\r\n")) <= 2 * MINUTE_MS


async def test_a_key_far_from_its_limits_waits_for_redis_now_and_then(redis: Redis) -> None:
    """Its requests and tokens are told in a few round trips, and each is counted once."""
    figures = Figures()
    most = 2 * FAR_REQUESTS
    async with limits_on(redis, figures, requests=most, tokens=2 * FAR_TOKENS) as limits:
        for _ in range(500):
            await limits.admit(key("far"))
            limits.spent(key("far"), 3)
        assert figures("onecard_limits_redis_seconds_count") < 250

        def told(what: str) -> bytes:
            return redis.command("HGET", f"onecard:limits:{{far}}:{what}", "current").split(b"\r\n")[1]

        await eventually(lambda: (told("requests"), told("tokens")) == (b"500", b"1500"))
        assert (await limits.admit(key("far"))).headers["x-ratelimit-remaining-requests"] == str(most - 501)


async def test_a_gateway_that_stops_tells_what_it_let_in(redis: Redis) -> None:
    """However short a moment ago that was."""
    async with limits_on(redis, Figures(), requests=2 * FAR_REQUESTS) as limits:
        for _ in range(10):
            await limits.admit(key("last"))
    assert redis.command("HGET", "onecard:limits:{last}:requests", "current").split(b"\r\n")[1] == b"10"


@pytest.mark.parametrize("seconds", [1, 61, 121])
async def test_tokens_count_from_when_they_are_known(seconds: int) -> None:
    """Also those of an answer that took longer than a minute, or two."""
    now = 1_000_000.0
    limits = Limits(Quota(tokens=100), None, LimitsMetrics(Figures().registry), lambda: now)
    await limits.admit(key("long"))
    now += seconds
    limits.spent(key("long"), 200)
    with pytest.raises(RateLimited):
        await limits.admit(key("long"))


async def test_a_large_limit_is_as_exact_as_a_small_one(redis: Redis) -> None:
    """What two gateways let in untold, they do far from the limit only."""
    most = FAR_REQUESTS + 100
    async with limits_on(redis, Figures(), requests=most) as one, limits_on(redis, Figures(), requests=most) as two:
        came_in = 0
        for _ in range(most // 40):
            came_in += sum(await asyncio.gather(admitted(one, 25), admitted(two, 25)))
        assert most <= came_in <= most + 1


async def test_a_redis_that_freezes_costs_one_wait_and_keeps_the_limit(redis: Redis) -> None:
    """The gateway goes on from what Redis said last, at once, and uses Redis again when it is well."""
    figures = Figures()
    async with limits_on(redis, figures, requests=50, tokens=1000) as limits:
        assert await admitted(limits, 30) == 30
        redis.freeze()
        started = time.perf_counter()
        assert await admitted(limits, 10) == 10
        limits.spent(key("a"), 10)
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


async def test_a_redis_that_is_killed_and_comes_back_empty(redis: Redis) -> None:
    """Each gateway holds the limit by itself meanwhile; afterwards they share one again."""
    figures, others = Figures(), Figures()
    async with limits_on(redis, figures, requests=20) as one, limits_on(redis, others, requests=20) as two:
        redis.kill()
        assert [await admitted(one, 50), await admitted(two, 50)] == [20, 20]
        redis.start()
        for each in (figures, others):
            await eventually(lambda each=each: each("onecard_limits_redis_up") == 1)  # type: ignore[misc]
        assert 20 <= sum(await asyncio.gather(admitted(one, 50), admitted(two, 50))) <= 21


async def test_without_limits_nobody_is_asked(redis: Redis) -> None:
    """A key without limits costs no round trip, and has no headers."""
    figures = Figures()
    async with limits_on(redis, figures) as limits:
        before = figures("onecard_limits_redis_seconds_count")
        admission = await limits.admit(key("a"))
        assert (admission.headers, admission.counts_tokens) == ({}, False)
        assert figures("onecard_limits_redis_seconds_count") - before <= 1  # A look at Redis may fall into it.
        assert figures(REQUESTS) == 0


async def test_a_keys_own_limit_counts_before_the_default() -> None:
    """Each of the two by itself; in this process alone where there is no Redis."""
    async with open_limits(Quota(requests=3, tokens=10), None, Figures().registry) as limits:
        admission = await limits.admit(key("own", requests_per_minute=5))
        assert admission.headers["x-ratelimit-limit-requests"] == "5"
        assert admission.headers["x-ratelimit-limit-tokens"] == "10"
        assert await admitted(limits, 10, "plain") == 3


async def test_limits_are_shared_in_a_cluster() -> None:
    """A key's two numbers lie on one server, whichever; a lost server is a Redis that is away, and comes back."""
    with cluster() as shards:
        address = RedisSettings(redis_cluster_nodes=shards.addresses).redis_address()
        figures = Figures()
        async with (
            open_limits(Quota(requests=20), address, figures.registry) as one,
            open_limits(Quota(requests=20), address, CollectorRegistry()) as two,
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
