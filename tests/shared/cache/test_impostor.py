"""Whatever answers in Redis's place, requests go on and nothing wrong is served."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.shared.cache.impostor import FakeRedis, error, fake_redis, silent, well_behaved
from tests.shared.cache.support import MetricsReader, cache_on, eventually
from tests.shared.cache.test_redis import ANSWER_SECONDS, KIND, LOOKUPS, NOISE_SECONDS, key, timed_get

Answer = Callable[[list[bytes]], bytes | None]

MAX_CONNECTIONS = 3 * 5
"""Of a cache's three channels: four batches each, and a probe."""


def garbage(_: list[bytes]) -> bytes:
    """Another protocol."""
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


def hangs_up(_: list[bytes]) -> None:
    """Closes the connection."""


def too_few(words: list[bytes]) -> bytes:
    """An array that is shorter than what was asked."""
    return b"*1\r\n$1\r\nx\r\n" if words[0] == b"MGET" else b"+OK\r\n"


def half(words: list[bytes]) -> bytes:
    """Begins an answer and stops."""
    return b"*%d\r\n$100\r\nhalf of" % (len(words) - 1)


def chatters(words: list[bytes]) -> bytes:
    """More answers than questions."""
    return well_behaved(words) + b"+OK\r\n+OK\r\n"


@pytest.mark.parametrize(
    "sick",
    [
        silent,
        garbage,
        hangs_up,
        half,
        error(b"LOADING Redis is loading the dataset in memory"),
        error(b"NOAUTH Authentication required."),
        error(b"MISCONF Redis is configured to save RDB snapshots"),
        error(b"ERR max number of clients reached"),
        error(b"\xff\xfe\x00 unreadable"),
    ],
)
async def test_a_redis_that_falls_sick_costs_one_wait_and_is_found_well_again(
    sick: Answer, figures: MetricsReader
) -> None:
    """Everybody under way gets a miss in time, later ones at once; no connections pile up; it heals."""
    async with fake_redis() as fake, cache_on(fake.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        fake.handle_command = sick
        crowd = await asyncio.gather(*(timed_get(cache, [key(1), key(2)]) for _ in range(20)))
        assert all(found == [None, None] for found, _ in crowd)
        assert max(seconds for _, seconds in crowd) < ANSWER_SECONDS + NOISE_SECONDS
        await eventually(lambda: cache.status() == "degraded")
        calm = [await timed_get(cache, [key(1), key(2)]) for _ in range(20)]
        assert sum(seconds for _, seconds in calm) < ANSWER_SECONDS + NOISE_SECONDS
        await asyncio.sleep(0.5)
        assert fake.open_connections <= MAX_CONNECTIONS
        fake.handle_command = well_behaved
        await eventually(lambda: cache.status() == "ok")
        assert figures(LOOKUPS, outcome="hit") == 0


@pytest.mark.parametrize("sick", [silent, garbage, hangs_up, error(b"NOAUTH Authentication required.")])
async def test_a_service_starts_before_a_sick_redis(sick: Answer, figures: MetricsReader) -> None:
    """Degraded, in about a second, and heals."""
    async with fake_redis() as fake:
        fake.handle_command = sick
        started = time.perf_counter()
        async with cache_on(fake.port, figures) as cache:
            assert time.perf_counter() - started < 2
            assert cache.status() == "degraded"
            fake.handle_command = well_behaved
            await eventually(lambda: cache.status() == "ok")


async def test_an_answer_of_the_wrong_length_is_no_answer(figures: MetricsReader) -> None:
    """Nobody can say which key its values belong to."""
    async with fake_redis() as fake, cache_on(fake.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        fake.handle_command = too_few
        assert await cache.get_many(KIND, [key(1), key(2)]) == [None, None]
        assert figures(LOOKUPS, outcome="error") == 2


async def test_a_half_read_answer_never_reaches_the_next_request(figures: MetricsReader) -> None:
    """The connection it came on is gone before anybody else asks."""
    async with fake_redis() as fake, cache_on(fake.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        accepted = fake.accepted
        fake.handle_command = half
        assert await cache.get_many(KIND, [key(1)]) == [None]
        fake.handle_command = well_behaved
        await eventually(lambda: cache.status() == "ok")
        assert fake.accepted > accepted
        assert await cache.get_many(KIND, [key(2)]) == [None]
        assert figures(LOOKUPS, outcome="corrupt") == 0


async def test_more_answers_than_questions_reach_nobody(figures: MetricsReader) -> None:
    """What is left on a connection ends it: nobody is told it as the answer to what he asked."""
    async with fake_redis() as fake, cache_on(fake.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        fake.handle_command = chatters
        for number in range(20):
            crowd = await asyncio.gather(*(cache.get_many(KIND, [key(number), key(1)]) for _ in range(5)))
            assert crowd == [[None, None]] * 5
        assert figures(LOOKUPS, outcome="corrupt") == 0
        assert fake.open_connections <= MAX_CONNECTIONS
        fake.handle_command = well_behaved
        await eventually(lambda: cache.status() == "ok")


@pytest.mark.parametrize("values", [20, 600])
async def test_a_trickling_redis_is_given_up(figures: MetricsReader, values: int) -> None:
    """Data that keeps coming is no answer either: one wait, and then nobody asks any more."""
    async with fake_redis() as fake, cache_on(fake.port, figures) as cache:
        await eventually(lambda: cache.status() == "ok")
        fake.portion = 1
        _, seconds = await timed_get(cache, [key(number) for number in range(values)])
        assert seconds < ANSWER_SECONDS + NOISE_SECONDS
        assert cache.status() == "degraded"
        fake.portion = 0
        await eventually(lambda: cache.status() == "ok")


def test_a_name_server_that_hangs_holds_up_nothing(figures: MetricsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look-up a channel waits for it, however often it is tried."""
    release = threading.Event()
    look_ups: list[str] = []

    def hangs(host: str, *_: object, **__: object) -> list[object]:
        look_ups.append(host)
        release.wait(20)
        raise OSError

    async def ask() -> None:
        async with cache_on(6379, figures, redis_host="redis.invalid") as cache:
            await eventually(lambda: figures("onecard_cache_redis_failures_total", reason="timeout") >= 6)
            _, seconds = await timed_get(cache, [key(1)])
            assert seconds < NOISE_SECONDS
            assert len(look_ups) == 3, "one a channel"
        release.set()

    monkeypatch.setattr(socket, "getaddrinfo", hangs)  # Of asyncio's own loop: uvloop's cannot be made to hang.
    asyncio.run(ask())


async def test_a_host_that_does_not_exist_is_a_redis_that_is_away(figures: MetricsReader) -> None:
    """Looking names up holds up neither the start nor a request."""
    started = time.perf_counter()
    async with cache_on(6379, figures, redis_host="no-such-host.invalid") as cache:
        assert time.perf_counter() - started < 2
        assert cache.status() == "degraded"
        _, seconds = await timed_get(cache, [key(1)])
        assert seconds < NOISE_SECONDS


def test_the_impostor_can_be_told_from_itself() -> None:
    """A fake with no fault is a Redis without memory."""
    assert FakeRedis().handle_command([b"MGET", b"k"]) == b"*1\r\n$-1\r\n"
