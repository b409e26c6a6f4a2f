"""Ways to a real Redis: TLS, logins, sockets, and one that is slow."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from bench.redis_faults.proxy import proxy
from tests.shared.cache.support import MetricsReader, RedisProcess, cache_on, eventually, running_redis
from tests.shared.cache.test_redis import ANSWER_SECONDS, KIND, NOISE_SECONDS, fill, key, timed_get, works

FAILURES = "onecard_cache_redis_failures_total"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, by nobody in particular, and with its key."""
    own, both = tmp_path / "own.pem", tmp_path / "both.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(both), "-out", str(own)]
    subprocess.run([*made.split(), *names], check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + own.read_bytes())
    return both


async def test_tls_is_spoken_and_certificates_are_checked(
    redis: RedisProcess, figures: MetricsReader, certificate: Path
) -> None:
    """A server that is not known is not told anything."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with proxy(redis.port, context) as way:
        url = f"rediss://localhost:{way.port}"
        for known in (f"{url}/1?ssl_ca_certs={certificate}", f"rediss://127.0.0.1:{way.port}?ssl_cert_reqs=none"):
            async with cache_on(0, fresh := MetricsReader(), redis_port=1, redis_url=known) as cache:
                await works(cache, fresh)
        async with cache_on(0, figures, redis_port=1, redis_url=url) as cache:
            assert cache.status() == "degraded"
            assert figures(FAILURES, operation="connect", reason="tls") >= 3


async def test_a_user_of_an_access_list_needs_few_rights(redis: RedisProcess, figures: MetricsReader) -> None:
    """Own keys, and the commands that the cache is made of."""
    redis.command("ACL", "SETUSER", "cache", "on", ">s3cret", "~onecard:*", "+mget", "+set")
    async with cache_on(0, figures, redis_port=1, redis_url=f"redis://cache:s3cret@127.0.0.1:{redis.port}") as cache:
        await works(cache, figures)
    async with cache_on(0, other := MetricsReader(), redis_port=1, redis_url=f"redis://cache:x@127.0.0.1:{redis.port}"):
        await eventually(lambda: other(FAILURES, operation="connect", reason="server_wrongpass") > 0)


async def test_a_socket_file_serves_as_well(tmp_path: Path, figures: MetricsReader) -> None:
    socket = tmp_path / "redis.sock"
    with running_redis(tmp_path, "--unixsocket", str(socket)):
        async with cache_on(0, figures, redis_port=1, redis_url=f"unix://{socket}?db=2") as cache:
            await works(cache, figures)


async def test_a_pause_of_60_ms_costs_no_connection(redis: RedisProcess, figures: MetricsReader) -> None:
    """A fork, or somebody's slow script: whoever asks meanwhile waits his time, and it is over when the pause is."""
    async with proxy(redis.port) as way, cache_on(way.port, figures) as cache:
        keys = await fill(cache, figures)
        connections = way.accepted
        for _ in range(3):
            redis.freeze()
            crowd = [asyncio.create_task(timed_get(cache, keys)) for _ in range(20)]
            await asyncio.sleep(0.06)
            redis.thaw()
            for found, seconds in await asyncio.gather(*crowd):
                assert found in ([None] * 3, [b"v0", b"v1", b"v2"])
                assert seconds < ANSWER_SECONDS + NOISE_SECONDS
            await works(cache, figures)
        assert way.accepted <= connections + 3, "a probe beside what hangs; nothing was given up"
        assert redis.connections() == way.accepted


async def test_a_redis_that_is_slow_by_60_ms_costs_one_wait_and_no_connection(
    redis: RedisProcess, figures: MetricsReader
) -> None:
    """Too slow is like away, but nothing is torn down for it: it is asked again as it is, and used when it is quick."""
    async with proxy(redis.port) as way, cache_on(way.port, figures) as cache:
        keys = await fill(cache, figures)
        way.delay = 0.06
        await timed_get(cache, keys)
        await eventually(lambda: cache.status() == "degraded")
        calm = [await timed_get(cache, keys) for _ in range(20)]
        assert all(found == [None] * 3 for found, _ in calm)
        assert sum(seconds for _, seconds in calm) < ANSWER_SECONDS + NOISE_SECONDS, "nobody waits any more"
        await eventually(lambda: figures(FAILURES, operation="connect", reason="slow") >= 6)
        connections = way.accepted
        await eventually(lambda: figures(FAILURES, operation="connect", reason="slow") >= 9)
        assert way.accepted == connections
        way.delay = 0
        await works(cache, figures)


async def test_how_long_a_request_waits_is_a_setting(redis: RedisProcess, figures: MetricsReader) -> None:
    """A Redis in another place may be slow by 60 ms and worth its while."""
    async with proxy(redis.port) as way, cache_on(way.port, figures, redis_answer_ms=2_000) as cache:
        way.delay = 0.06
        await works(cache, figures)
        assert cache.status() == "ok"
        assert await cache.get_many(KIND, [key(9)]) == [None]
